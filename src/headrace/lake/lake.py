"""The lake: the Iceberg tables of one project."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError, TableAlreadyExistsError
from pyiceberg.io import load_file_io
from pyiceberg.schema import Schema
from pyiceberg.table import Table

from headrace.config.settings import Settings
from headrace.kernel.errors import ProjectError, Unavailable
from headrace.kernel.ids import new_id
from headrace.lake.catalog import address_of, open_catalog
from headrace.lake.errors import name_errors
from headrace.lake.schema import PartitionBy, fits, grow, iceberg_schema, partition_spec
from headrace.lake.table import LakeTable

__all__ = ["Lake", "open"]

_TRIES = 20

# Properties of a new table; each keeps the cost of a small commit flat (bench/lake.py).
_PROPERTIES = {
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "40",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "write.parquet.compression-codec": "zstd",
}


def open(settings: Settings) -> Lake:  # noqa: A001
    """Opens the lake of these settings: `catalog_url` decides between SQLite and REST.

    Keys of object stores come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
    AWS_REGION, AWS_ENDPOINT_URL_S3), and so do those of a REST catalog (HEADRACE_CATALOG_TOKEN or
    HEADRACE_CATALOG_CREDENTIAL, which is `id:secret`).

    Raises:
        ProjectError: the address is of an unknown kind.
        Unavailable: the catalog is locked, or does not answer.
    """
    return Lake(open_catalog(settings), settings.project, address_of(settings), settings.place("lake"))


class Lake:
    """The tables of one project. Safe to use from several threads and processes at once."""

    def __init__(self, catalog: Catalog, namespace: str, where: str, folder: Path) -> None:
        self._catalog = catalog
        self._namespace = namespace
        self._where = where
        self._folder = folder

    def list_tables(self) -> list[str]:
        """The names of the tables, sorted."""
        with name_errors(self._where):
            return sorted(identifier[-1] for identifier in self._catalog.list_tables(self._namespace))

    def table_exists(self, name: str) -> bool:
        """Whether the lake has a table of this name."""
        with name_errors(self._where, name):
            return self._catalog.table_exists((self._namespace, name))

    def table(self, name: str) -> LakeTable:
        """Loads the table of this name.

        Raises:
            CallError: it does not exist.
        """
        with name_errors(self._where, name):
            return self._table(self._catalog.load_table((self._namespace, name)))

    def ensure(
        self, name: str, schema: pa.Schema, partition_by: PartitionBy = (), *, exact: bool = False
    ) -> LakeTable:
        """Creates the table, or adds the columns it lacks, and returns it.

        Several processes may do this at once. All columns are optional in storage.

        Args:
            name: the table.
            schema: columns; int32 may later become int64, and float32 float64.
            partition_by: (column, `identity` or `day`) pairs; they must be those of an existing table.
            exact: the table is about to be overwritten completely: columns that are not in `schema` are
                removed, and a column of another type is replaced. Older snapshots keep their columns.

        Raises:
            ProjectError: a column is stored with another type, or the table is partitioned otherwise.
            Unavailable: other writers changed the table each time.
        """
        wanted = iceberg_schema(schema, name)
        with name_errors(self._where, name):
            iceberg = self._load_or_create(name, wanted, partition_by)
            table = self._table(iceberg)
            _check_partitions(table, partition_by)
            for _ in range(_TRIES):
                if fits(iceberg.schema(), wanted, exact=exact):
                    return table
                try:
                    with iceberg.update_schema() as update:
                        grow(update, iceberg.schema(), wanted, name, exact=exact)
                except CommitFailedException:
                    iceberg = self._catalog.load_table((self._namespace, name))
        raise Unavailable(f"other writers kept changing table {name}", where=self._where, remedy="Try again.")

    def drop_table(self, name: str) -> None:
        """Removes the table and its tags from the catalog; its files stay.

        Raises:
            CallError: it does not exist.
        """
        with name_errors(self._where, name):
            self._catalog.drop_table((self._namespace, name))

    def check_warehouse(self, url: str) -> None:
        """Writes a small file to the warehouse, reads it and deletes it.

        Args:
            url: the address of the warehouse in the settings.

        Raises:
            Unavailable: it cannot be written or read.
        """
        place = f"{url.rstrip('/')}/headrace-doctor-{new_id()}"
        with name_errors(url):
            io = load_file_io(self._catalog.properties, place)
            with io.new_output(place).create() as stream:
                stream.write(b"ok")
            with io.new_input(place).open() as stream:
                stream.read()
            io.delete(place)

    def _table(self, iceberg: Table) -> LakeTable:
        return LakeTable(self._catalog, iceberg, self._where, self._folder)

    def _load_or_create(self, name: str, schema: Schema, partition_by: PartitionBy) -> Table:
        identifier = (self._namespace, name)
        try:
            return self._catalog.load_table(identifier)
        except NoSuchTableError:
            pass
        try:
            spec = partition_spec(schema, partition_by)
            return self._catalog.create_table(
                identifier, schema=schema, partition_spec=spec, properties=_PROPERTIES
            )
        except TableAlreadyExistsError:  # another process was faster
            return self._catalog.load_table(identifier)


def _check_partitions(table: LakeTable, partition_by: PartitionBy) -> None:
    if partition_by and tuple(partition_by) != table.partition_by():
        raise ProjectError(
            f"it is partitioned by {table.partition_by()}, not by {tuple(partition_by)}",
            where=f"table {table.name}",
            remedy="Give the table another name, or drop it and create it again.",
        )
