"""Reads the embedded catalog and its local files without PyIceberg, whose import takes a second.

The catalog is an SQLite table that names each Iceberg table's metadata file; that file is JSON, and names Avro
files, which name the data files. Iceberg defines all of them: the Java JDBC catalog, and the table
specification. A table with anything that this package does not know, such as delete files of another engine, is
read through PyIceberg.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from headrace.kernel.sqlite import connect
from headrace.lake.metadata import TableMetadata, decode_metadata
from headrace.lake.reading.port import StoredFile, StoredTable
from headrace.lake.reading.unknown import UnknownFormat

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

__all__ = ["BUSY_SECONDS", "EmbeddedReader", "EmbeddedTable"]

BUSY_SECONDS = 15
_TABLES = (
    "SELECT table_name, metadata_location FROM iceberg_tables"
    " WHERE catalog_name = 'headrace' AND table_namespace = ?"
)
_NAME_MAPPING = "schema.name-mapping.default"  # for data files without the ids of their columns
_logger = logging.getLogger(__name__)


class EmbeddedReader:
    """The tables of a namespace in an SQLite catalog with local files. Implements CatalogReader.

    Args:
        path: the catalog's file, which may not exist yet.
        namespace: the namespace.
    """

    def __init__(self, path: Path, namespace: str) -> None:
        self._path = path
        self._namespace = namespace

    def list_tables(self) -> list[str]:
        """See CatalogReader."""
        return sorted(name for name, _ in self._query(_TABLES, self._namespace))

    def find(self, name: str) -> StoredTable | None:
        """See CatalogReader."""
        file = self._metadata_file(name)
        while file is not None:
            try:
                return _open_table(file)
            except FileNotFoundError:  # later commits removed it, unless it is still the newest
                newer = self._metadata_file(name)
                if newer == file:
                    raise
                file = newer
        return None

    def _metadata_file(self, name: str) -> str | None:
        rows = self._query(f"{_TABLES} AND table_name = ?", self._namespace, name)
        return rows[0][1] if rows else None

    def _query(self, statement: str, *values: str) -> list[tuple[str, str | None]]:
        if not self._path.is_file():
            return []
        try:
            with closing(connect(self._path, timeout=BUSY_SECONDS)) as connection:
                return connection.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):  # the catalog was created a moment ago
                return []
            raise


def _open_table(file: str) -> StoredTable:
    try:
        return EmbeddedTable(file, _decode(file))
    except UnknownFormat as error:
        return _open_by_pyiceberg(file, error)


def _decode(file: str) -> TableMetadata:
    if not file.startswith("/"):
        raise UnknownFormat(f"the metadata file is named {file!r}")
    try:
        metadata = decode_metadata(Path(file).read_bytes())
    except msgspec.MsgspecError as error:  # such as a compressed file
        raise UnknownFormat(str(error)) from error
    if metadata.format_version != 2:
        raise UnknownFormat(f"it has table format {metadata.format_version}")
    if _NAME_MAPPING in metadata.properties:
        raise UnknownFormat("its data files may lack the ids of their columns")
    return metadata


def _open_by_pyiceberg(file: str, reason: UnknownFormat) -> StoredTable:
    from pyiceberg.table import StaticTable

    from headrace.lake.reading.pyiceberg import PyIcebergTable

    _logger.info("%s is read through PyIceberg: %s", file, reason)
    return PyIcebergTable(StaticTable.from_metadata(file))


class EmbeddedTable:
    """A table of the embedded catalog. Implements StoredTable."""

    def __init__(self, file: str, metadata: TableMetadata) -> None:
        self.file = file
        self.metadata = metadata

    def schema(self) -> pa.Schema:
        """See StoredTable."""
        from headrace.lake.reading.arrow import arrow_schema

        try:
            return arrow_schema(self.metadata.schema(), ids=False)
        except UnknownFormat as error:
            return _open_by_pyiceberg(self.file, error).schema()

    def files(self, snapshot: int, *, unless_in: int | None = None) -> list[StoredFile]:
        """See StoredTable."""
        from headrace.lake.reading.manifests import list_files, read_manifests

        try:
            shared = () if unless_in is None else read_manifests(self.metadata, unless_in)
            return list_files(read_manifests(self.metadata, snapshot), shared)
        except UnknownFormat as error:
            return _open_by_pyiceberg(self.file, error).files(snapshot, unless_in=unless_in)

    def scan(self, snapshot: int, *, only: Collection[str] | None = None) -> pl.LazyFrame:
        """See StoredTable. The snapshot's files are listed at this call."""
        from headrace.lake.reading.scan import scan_snapshot

        try:
            return scan_snapshot(self.metadata, snapshot, only)
        except UnknownFormat as error:
            return _open_by_pyiceberg(self.file, error).scan(snapshot, only=only)
