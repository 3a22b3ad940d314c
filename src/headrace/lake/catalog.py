"""The lake's catalog: a SQLite file or a REST service, by the same code."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from pydantic import ValidationError as PydanticError
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError, TableAlreadyExistsError
from pyiceberg.io import load_file_io
from sqlalchemy import NullPool, create_engine

from headrace.config.settings import Settings
from headrace.kernel.addresses import path_of, sqlalchemy_url
from headrace.kernel.errors import CallError, ProjectError, Unavailable
from headrace.kernel.ids import new_id
from headrace.kernel.lock import hold_lock
from headrace.kernel.private import make_private
from headrace.kernel.sqlite import is_locked, open_shared
from headrace.lake.failures import failures
from headrace.lake.home import WAREHOUSE, settle
from headrace.lake.schema import PartitionBy, fits, grow, iceberg_schema, partition_spec
from headrace.lake.table import LakeTable

__all__ = ["Lake", "open"]

BUSY_SECONDS = 15
_TRIES = 20

# What a new table is made with; each keeps the cost of a small commit flat (bench/lake.py).
_PROPERTIES = {
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "40",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "write.parquet.compression-codec": "zstd",
}


def open(settings: Settings) -> Lake:  # noqa: A001
    """The lake of these settings: `catalog_url` decides between SQLite and REST.

    Object stores take their keys from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
    AWS_REGION, AWS_ENDPOINT_URL_S3), a REST catalog its HEADRACE_CATALOG_TOKEN or
    HEADRACE_CATALOG_CREDENTIAL (`id:secret`).

    Raises:
        ProjectError: the address is of no kind that is known.
        Unavailable: the catalog is locked, or does not answer.
    """
    url = settings.lake.catalog_url
    kind = urlsplit(url).scheme
    where = _without_user(url)
    if kind not in ("sqlite", "http", "https"):
        raise ProjectError(
            f"{where!r} is no catalog's address",
            where=f"headrace.toml: profile.{settings.profile_name}.catalog",
            remedy="Write sqlite, sqlite:///path/to/file.db, or a REST catalog's https:// address.",
        )
    with failures(where):
        catalog = _sqlite(settings) if kind == "sqlite" else _rest(settings, where)
        catalog.create_namespace_if_not_exists(settings.project)
    return Lake(catalog, settings.project, where, settings.place("lake"))


def _sqlite(settings: Settings) -> Any:
    path = path_of(settings.lake.catalog_url)
    _prepare(path, settings)
    uri = f"{sqlalchemy_url(path)}?timeout={BUSY_SECONDS}"
    warehouse = settings.lake.warehouse_url
    # Of two processes that are first at once, one would find half of its tables.
    with hold_lock(path.with_name(f"{path.name}.lock")):
        if settings.lake.catalog == "sqlite":
            folder = settle(path)
            if settings.lake.warehouse == "file":
                warehouse = str(folder / WAREHOUSE)
        catalog: Any = load_catalog("headrace", type="sql", uri=uri, warehouse=warehouse, **_object_store())
        catalog.create_namespace_if_not_exists(settings.project)
    # A kept connection would be closed by nobody: a lake has no end. Opening one is quick.
    catalog.engine.dispose()
    catalog.engine = create_engine(uri, poolclass=NullPool)
    return catalog


def _rest(settings: Settings, where: str) -> Any:
    from headrace.lake.rest import TimedRestCatalog

    properties = {"type": "rest", "uri": settings.lake.catalog_url}
    if settings.lake.warehouse != "file":
        properties["warehouse"] = settings.lake.warehouse_url
    for name, variable in (("token", "TOKEN"), ("credential", "CREDENTIAL")):
        if secret := os.environ.get(f"HEADRACE_CATALOG_{variable}"):
            properties[name] = secret
    try:
        return TimedRestCatalog("headrace", **properties, **_object_store())
    except PydanticError as error:
        raise Unavailable(
            "what answers there is no Iceberg REST catalog",
            where=where,
            remedy="Its address ends where /v1 would follow: https://catalog.example/iceberg",
        ) from error


def _without_user(url: str) -> str:
    """The address without a user and password that may stand in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _prepare(path: Path, settings: Settings) -> None:
    """Makes the catalog's file, in WAL mode."""
    settings.make_state()
    make_private(path.parent)
    try:
        open_shared(path, timeout=BUSY_SECONDS).close()
    except sqlite3.Error as error:
        raise Unavailable(
            f"the catalog cannot be opened: {error}",
            where=str(path),
            remedy="End the process that holds it (a copy, a database browser?), and try again."
            if is_locked(error)
            else "Is it an SQLite file, is there room on the disk, and may this user write there?",
        ) from error


def _object_store() -> dict[str, str]:
    found = {
        "s3.access-key-id": os.environ.get("AWS_ACCESS_KEY_ID"),
        "s3.secret-access-key": os.environ.get("AWS_SECRET_ACCESS_KEY"),
        "s3.session-token": os.environ.get("AWS_SESSION_TOKEN"),
        "s3.region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        "s3.endpoint": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
    }
    if found["s3.endpoint"]:
        found["s3.force-virtual-addressing"] = "false"  # an own server has no DNS name a bucket
    return {name: value for name, value in found.items() if value}


class Lake:
    """The tables of one project. Safe to use from several threads and processes at once."""

    def __init__(self, catalog: Any, namespace: str, where: str, folder: Path) -> None:
        self._catalog = catalog
        self._namespace = namespace
        self._where = where
        self._folder = folder

    def list_tables(self) -> list[str]:
        """The tables there are, sorted."""
        with failures(self._where):
            return sorted(identifier[-1] for identifier in self._catalog.list_tables(self._namespace))

    def table_exists(self, name: str) -> bool:
        """Whether there is a table of this name."""
        with failures(self._where, name):
            return bool(self._catalog.table_exists((self._namespace, name)))

    def table(self, name: str) -> LakeTable:
        """The table of this name.

        Raises:
            CallError: there is none.
        """
        with failures(self._where, name):
            iceberg = self._catalog.load_table((self._namespace, name))
        return LakeTable(self._catalog, iceberg, self._where, self._folder)

    def ensure(
        self, name: str, schema: pa.Schema, partition_by: PartitionBy = (), *, exact: bool = False
    ) -> LakeTable:
        """The table of this name with at least these columns: made, or grown, where it must be.

        Several processes may do this at once. All columns are optional in storage.

        Args:
            name: the table.
            schema: columns; int32 may later become int64, and float32 float64.
            partition_by: (column, `identity` or `day`) pairs; only a new table takes them.
            exact: the table is about to be replaced whole: columns that are not in `schema` go, and
                one that is stored with another type is made anew. Older snapshots keep theirs.

        Raises:
            ProjectError: a column is stored with another type, or the table is partitioned otherwise.
            Unavailable: others changed the table each time.
        """
        wanted = iceberg_schema(schema, name)
        with failures(self._where, name):
            try:
                iceberg = self._catalog.load_table((self._namespace, name))
            except NoSuchTableError:
                iceberg = self._made(name, wanted, partition_by)
            table = LakeTable(self._catalog, iceberg, self._where, self._folder)
            self._check_partitions(table, partition_by)
            for _ in range(_TRIES):
                if fits(iceberg.schema(), wanted, exact=exact):
                    return table
                try:
                    with iceberg.update_schema() as update:
                        grow(update, iceberg.schema(), wanted, name, exact=exact)
                except CommitFailedException:
                    iceberg = self._catalog.load_table((self._namespace, name))
        raise Unavailable(f"other writers kept changing table {name}", where=self._where, remedy="Try again.")

    def _made(self, name: str, schema: Any, partition_by: PartitionBy) -> Any:
        try:
            return self._catalog.create_table(
                (self._namespace, name),
                schema=schema,
                partition_spec=partition_spec(schema, partition_by),
                properties=_PROPERTIES,
            )
        except TableAlreadyExistsError:
            return self._catalog.load_table((self._namespace, name))

    def _check_partitions(self, table: LakeTable, partition_by: PartitionBy) -> None:
        if partition_by and tuple(partition_by) != table.partition_by():
            raise ProjectError(
                f"it is partitioned by {table.partition_by()}, not by {tuple(partition_by)}",
                where=f"table {table.name}",
                remedy="Give the table another name, or drop it and make it again.",
            )

    def try_warehouse(self, url: str) -> None:
        """Writes a small file to the warehouse, reads it and deletes it.

        Args:
            url: the warehouse, as the settings name it.

        Raises:
            Unavailable: it cannot be written or read.
        """
        place = f"{url.rstrip('/')}/headrace-doctor-{new_id()}"
        with failures(url):
            io = load_file_io(self._catalog.properties, place)
            with io.new_output(place).create() as stream:
                stream.write(b"ok")
            with io.new_input(place).open() as stream:
                stream.read()
            io.delete(place)

    def drop_table(self, name: str) -> None:
        """Takes the table out of the catalog, and its pins with it; its files stay where they are.

        Raises:
            CallError: there is none.
        """
        with failures(self._where, name):
            try:
                self._catalog.drop_table((self._namespace, name))
            except NoSuchTableError as error:
                raise CallError(f"there is no table {name!r} in the lake", where=self._where) from error
