"""Scans the data files of a snapshot with Polars.

This module and `iceberg.py` use Polars beyond its documented API: the parameters of `scan_parquet` that begin
with an underscore, and its options for casts, as Polars' own `scan_iceberg` passes them. With them, columns are
matched by Iceberg's ids, so that a new column is not read from an older one of the same name, and files are
skipped by the statistics in the manifests.
"""

from __future__ import annotations

from collections.abc import Collection

import polars as pl
from polars.io.scan_options.cast_options import ScanCastOptions

from headrace.kernel.foreign import check_version
from headrace.lake.metadata import StoredSchema, TableMetadata
from headrace.lake.reading.arrow import arrow_schema
from headrace.lake.reading.manifests import read_entries, read_manifests
from headrace.lake.reading.parquet import drop_shortened_bounds, scan_parquet
from headrace.lake.reading.statistics import null_counts, statistics_of
from headrace.lake.reading.unknown import UnknownFormat

__all__ = ["scan_snapshot"]

_FIELDS = (
    "file_path",
    "record_count",
    "file_size_in_bytes",
    "null_value_counts",
    "lower_bounds",
    "upper_bounds",
)


def scan_snapshot(metadata: TableMetadata, snapshot: int, only: Collection[str] | None = None) -> pl.LazyFrame:
    """The rows of a snapshot, with the columns that it had, not yet read; of all its files, or only of some.

    Raises:
        UnknownFormat: the snapshot has something that is read through PyIceberg.
        FileNotFoundError: a file that lists data files was removed.
        Unavailable: Headrace does not work with the installed version of Polars.
    """
    check_version("polars")
    schema = _schema_of(metadata, snapshot)
    columns = arrow_schema(schema, ids=True)
    manifests = read_manifests(metadata, snapshot)
    files = pl.concat([read_entries(manifest).select(_FIELDS) for manifest in manifests]) if manifests else None
    if files is not None and only is not None:
        files = files.filter(pl.col("file_path").is_in(list(only)))
    if files is None or files.is_empty():
        return pl.LazyFrame(schema=pl.Schema(columns))
    _check_partition_columns(metadata, files)
    return scan_parquet(
        files["file_path"].to_list(),
        use_statistics=True,
        schema=dict(pl.Schema(columns)),
        missing_columns="insert",
        extra_columns="ignore",
        cast_options=ScanCastOptions._default_iceberg(),
        _column_mapping=("iceberg-column-mapping", columns, None),
        _default_values=("iceberg", ({}, {}, {})),
        _table_statistics=drop_shortened_bounds(statistics_of(files, schema, columns)),
        _row_count=(sum(files["record_count"].to_list()), 0),
        _source_sizes=files["file_size_in_bytes"].to_list(),
    )


def _schema_of(metadata: TableMetadata, snapshot: int) -> StoredSchema:
    """The columns that a snapshot had."""
    stored = metadata.snapshot(snapshot)
    schemas = {schema.schema_id: schema for schema in metadata.schemas}
    if stored is None or stored.schema_id not in schemas:
        raise UnknownFormat(f"snapshot {snapshot} does not name its columns")
    return schemas[stored.schema_id]


def _check_partition_columns(metadata: TableMetadata, files: pl.DataFrame) -> None:
    """Raises UnknownFormat if a file lacks a column whose values would be those of its partition."""
    counts = null_counts(files)
    for spec in metadata.partition_specs:
        for field in spec.fields:
            column = str(field.source_id)
            if field.transform == "identity" and (column not in counts.columns or counts[column].null_count()):
                raise UnknownFormat(f"a file may lack column {field.source_id}, by which it is partitioned")
