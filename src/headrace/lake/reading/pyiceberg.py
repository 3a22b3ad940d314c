"""Reads any catalog through PyIceberg, whose import takes a second."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress

import polars as pl
import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot

from headrace.lake.entries import live_entries
from headrace.lake.errors import name_catalog_errors
from headrace.lake.metadata import metadata_of
from headrace.lake.pyiceberg_internals import read_files
from headrace.lake.reading.iceberg import scan_iceberg
from headrace.lake.reading.port import StoredFile
from headrace.lake.refs import TRIES

__all__ = ["PyIcebergReader", "PyIcebergTable"]

# Without this, Polars warns at every scan that an optional package for planning scans is missing.
os.environ.setdefault("POLARS_ICEBERG_PLANNER", "pyiceberg")


class PyIcebergReader:
    """The tables of a namespace. Implements CatalogReader.

    Args:
        catalog: PyIceberg's catalog.
        namespace: the namespace.
        where: the catalog's address, for errors.
    """

    def __init__(self, catalog: Catalog, namespace: str, where: str) -> None:
        self._catalog = catalog
        self._namespace = namespace
        self._where = where

    def list_tables(self) -> list[str]:
        """See CatalogReader."""
        with name_catalog_errors(self._where):
            return sorted(identifier[-1] for identifier in self._catalog.list_tables(self._namespace))

    def find(self, name: str) -> PyIcebergTable | None:
        """See CatalogReader."""
        for _ in range(TRIES):
            with suppress(FileNotFoundError):  # later commits removed the metadata file that the catalog named
                return self._load(name)
        return self._load(name)

    def _load(self, name: str) -> PyIcebergTable | None:
        with name_catalog_errors(self._where, name):
            try:
                return PyIcebergTable(self._catalog.load_table((self._namespace, name)))
            except NoSuchTableError:
                return None


class PyIcebergTable:
    """A table as PyIceberg loaded it. Implements StoredTable."""

    def __init__(self, iceberg: Table) -> None:
        self._iceberg = iceberg
        self.file = iceberg.metadata_location
        self.metadata = metadata_of(iceberg)

    def schema(self) -> pa.Schema:
        """See StoredTable."""
        return schema_to_pyarrow(self._iceberg.schema(), include_field_ids=False)

    def files(self, snapshot: int, *, unless_in: int | None = None) -> list[StoredFile]:
        """See StoredTable."""
        shared = frozenset[str]() if unless_in is None else self._manifests(unless_in)
        return [
            StoredFile(
                entry.data_file.file_path,
                tuple(entry.data_file.partition[i] for i in range(len(entry.data_file.partition))),
                entry.data_file.record_count,
                entry.sequence_number or 0,
                entry.data_file.spec_id,
            )
            for entry in live_entries(self._iceberg, self._snapshot(snapshot), shared)
        ]

    def scan(self, snapshot: int, *, only: Collection[str] | None = None) -> pl.LazyFrame:
        """See StoredTable. Files are listed when the frame is collected; those of `only` are read at once."""
        if only is not None:
            entries = live_entries(self._iceberg, self._snapshot(snapshot))
            files = [entry.data_file for entry in entries if entry.data_file.file_path in only]
            schema = self._iceberg.scan(snapshot_id=snapshot).projection()
            return pl.LazyFrame(read_files(self._iceberg, files, schema))
        return scan_iceberg(self._iceberg, snapshot)

    def _manifests(self, snapshot: int) -> frozenset[str]:
        io = self._iceberg.io
        return frozenset(manifest.manifest_path for manifest in self._snapshot(snapshot).manifests(io))

    def _snapshot(self, snapshot_id: int) -> IcebergSnapshot:
        snapshot = self._iceberg.snapshot_by_id(snapshot_id)
        assert snapshot is not None, "the caller has found it in the metadata"
        return snapshot
