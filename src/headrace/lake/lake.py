"""The lake: the Iceberg tables of one project."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from headrace.config.settings import Settings
from headrace.lake.file_errors import missing_table, name_file_errors
from headrace.lake.reading.choice import open_reader
from headrace.lake.table import LakeTable

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.catalog import Catalog

    from headrace.lake.schema import PartitionBy

__all__ = ["Lake", "address_of", "open"]


def open(settings: Settings) -> Lake:  # noqa: A001
    """Opens the lake of these settings: `catalog_url` decides between SQLite and REST.

    The embedded lake is read without PyIceberg, which is imported at the first write.

    Keys of object stores come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
    AWS_REGION, AWS_ENDPOINT_URL_S3), and so do those of a REST catalog (HEADRACE_CATALOG_TOKEN or
    HEADRACE_CATALOG_CREDENTIAL, which is `id:secret`).

    Raises:
        ProjectError: the address is of an unknown kind.
        Unavailable: the catalog is locked, or does not answer.
    """
    return Lake(settings)


def address_of(settings: Settings) -> str:
    """The catalog's address without a user and password."""
    url = settings.lake.catalog_url
    user, at, _ = urlsplit(url).netloc.rpartition("@")
    return url.replace(f"//{user}{at}", "//", 1)


class Lake:
    """The tables of one project. Safe to use from several threads and processes at once.

    Attributes:
        namespace: the catalog's namespace of the tables: the project's name.
        where: the catalog's address, for errors.
        folder: this machine's folder for local state of the lake.
        reader: reads the catalog.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.namespace = settings.project
        self.where = address_of(settings)
        self.folder = settings.place("lake")
        self.reader = open_reader(settings, self.where, lambda: self.catalog)

    @cached_property
    def catalog(self) -> Catalog:
        """PyIceberg's catalog. Its first use creates the catalog, if it is an SQLite file.

        Raises:
            Unavailable: the catalog is locked, or does not answer.
        """
        from headrace.lake.catalog import open_catalog

        return open_catalog(self._settings)

    def list_tables(self) -> list[str]:
        """The names of the tables, sorted."""
        with name_file_errors(self.where):
            return self.reader.list_tables()

    def table_exists(self, name: str) -> bool:
        """Whether the lake has a table of this name."""
        with name_file_errors(self.where, name):
            return self.reader.find(name) is not None

    def table(self, name: str) -> LakeTable:
        """Finds the table of this name.

        Raises:
            CallError: it does not exist.
        """
        if not self.table_exists(name):
            raise missing_table(name, self.where)
        return LakeTable(self, name)

    def ensure(
        self, name: str, schema: pa.Schema, partition_by: PartitionBy | None = None, *, exact: bool = False
    ) -> LakeTable:
        """Creates the table, or adds the columns it lacks, and returns it.

        Several processes may do this at once. All columns are optional in storage.

        Args:
            name: the table.
            schema: columns; int32 may later become int64, and float32 float64.
            partition_by: (column, transform) pairs; the transform is `identity`, `hour`, `day`, `month` or
                `bucket[N]`. They must be those of an existing table. None: as they are.
            exact: the table is about to be overwritten completely: columns that are not in `schema` are
                removed, a column of another type is replaced, the order becomes that of `schema`, and the
                partitions become those of `partition_by`. Older snapshots keep their columns and partitions.

        Raises:
            ProjectError: a column is stored with another type, or the table is partitioned otherwise.
            Unavailable: other writers changed the table each time.
        """
        from headrace.lake.create import ensure

        ensure(self, name, schema, partition_by, exact=exact)
        return LakeTable(self, name)

    def rename_columns(self, name: str, renames: Mapping[str, str]) -> None:
        """Renames columns of a table, old name → new one, without writing a data file.

        Snapshots keep the names that they were written with: the next snapshot has the new ones. A column that
        the table does not have is left out, and one whose new name another column has.

        Raises:
            CallError: the table does not exist.
            Unavailable: other writers changed the table each time.
        """
        from headrace.lake.create import rename_columns

        rename_columns(self, name, renames)

    def stored_schema(self, name: str, schema: pa.Schema) -> pa.Schema:
        """The types that the columns of a schema have once a table of this name stores them.

        Raises:
            ProjectError: a column has a type that no table can store.
        """
        from headrace.lake.schema import stored_schema

        return stored_schema(schema, name)

    def drop_table(self, name: str) -> None:
        """Removes the table and its tags from the catalog; its files stay.

        Raises:
            CallError: it does not exist.
        """
        from headrace.lake.create import drop_table

        drop_table(self, name)

    def check_warehouse(self, url: str) -> None:
        """Writes a small file to the warehouse, reads it and deletes it.

        Args:
            url: the address of the warehouse in the settings.

        Raises:
            Unavailable: it cannot be written or read.
        """
        from headrace.lake.create import check_warehouse

        check_warehouse(self, url)
