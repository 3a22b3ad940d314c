"""Scans a table that PyIceberg opened with Polars' `scan_iceberg`, in which only the scan of the data files is
replaced by the lake's own."""

from __future__ import annotations

from typing import Any

import polars as pl
from polars._plr import PyLazyFrame
from polars._utils.wrap import wrap_ldf
from polars.io.cloud._utils import NoPickleOption
from polars.io.iceberg._dataset import (
    IcebergScanResolver,
    IcebergScanTableSerializer,
    IcebergTableWrap,
    _NativeIcebergScanData,
)
from polars.io.scan_options.cast_options import ScanCastOptions
from pyiceberg.table import Table

from headrace.kernel.foreign import check_version
from headrace.lake.reading.parquet import drop_shortened_bounds, scan_parquet

__all__ = ["scan_iceberg"]


def scan_iceberg(table: Table, snapshot: int) -> pl.LazyFrame:
    """The rows of a snapshot, with the columns that it had, not yet read. Files are listed at `collect`.

    Raises:
        Unavailable: Headrace does not work with the installed version of Polars.
    """
    check_version("polars")
    resolver = _Resolver(
        table=IcebergTableWrap(
            table_=NoPickleOption(table),
            table_descriptor_=None,
            serializer=IcebergScanTableSerializer(),
            iceberg_storage_properties=None,
        ),
        snapshot_id=snapshot,
        from_snapshot_id_exclusive=None,
        to_snapshot_id_inclusive=None,
        reader_override="native",
        use_metadata_statistics=True,
        fast_deletion_count=False,
        use_pyiceberg_filter=True,
    )
    return wrap_ldf(PyLazyFrame.new_from_dataset_object(resolver))


class _Resolver(IcebergScanResolver):
    """Polars calls it when a plan is made. Only the files are scanned in another way."""

    def to_dataset_scan(self, **wanted: Any) -> tuple[pl.LazyFrame, str] | None:
        """See IcebergScanResolver."""
        scan = self._to_dataset_scan_impl(**wanted)
        if scan is None:
            return None
        assert isinstance(scan, _NativeIcebergScanData), "reader_override is native"
        return _scan_files(scan), scan.snapshot_id_key


def _scan_files(scan: _NativeIcebergScanData) -> pl.LazyFrame:
    statistics = scan.min_max_statistics
    return scan_parquet(
        scan.sources,
        use_statistics=True,
        cast_options=ScanCastOptions._default_iceberg(),
        missing_columns="insert",
        extra_columns="ignore",
        storage_options=scan.storage_options,
        _column_mapping=("iceberg-column-mapping", scan.column_mapping, scan.name_mapping),
        _default_values=("iceberg", scan.default_values),
        _deletion_files=("iceberg", (scan.position_delete_files, scan.deletion_vectors)),
        _table_statistics=None if statistics is None else drop_shortened_bounds(statistics),
        _row_count=scan.row_count,
        _source_sizes=scan.source_sizes,
    )
