"""Polars' internals that the lake's scan uses: these tests fail when the internals change."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from polars.io.scan_options.cast_options import ScanCastOptions


def schema_with_ids(**fields: tuple[int, pa.DataType]) -> pa.Schema:
    return pa.schema(
        [pa.field(name, kind, metadata={"PARQUET:field_id": str(i)}) for name, (i, kind) in fields.items()]
    )


def scan(paths: list[Path], columns: pa.Schema, statistics: pl.DataFrame | None = None) -> pl.LazyFrame:
    return pl.scan_parquet(
        [str(path) for path in paths],
        schema=dict(pl.Schema(columns)),
        glob=False,
        missing_columns="insert",
        extra_columns="ignore",
        cast_options=ScanCastOptions._default_iceberg(),
        _column_mapping=("iceberg-column-mapping", columns, None),
        _default_values=("iceberg", ({}, {}, {})),
        _table_statistics=statistics,
        _row_count=(2 * len(paths), 0),
        _source_sizes=[path.stat().st_size for path in paths],
    )


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files: the column `a` has id 1 in the first, and another id in the second."""
    first = schema_with_ids(a=(1, pa.int32()), b=(2, pa.float32()))
    second = schema_with_ids(a=(3, pa.string()), renamed=(1, pa.int64()))
    paths = [tmp_path / "first.parquet", tmp_path / "second.parquet"]
    pq.write_table(pa.table({"a": [1, 2], "b": [0.5, 1.5]}, schema=first), paths[0])
    pq.write_table(pa.table({"a": ["x", "y"], "renamed": [2**40, 4]}, schema=second), paths[1])
    return paths


def test_columns_are_matched_by_id_and_widened(files: list[Path]) -> None:
    columns = schema_with_ids(renamed=(1, pa.int64()), a=(3, pa.large_string()), b=(2, pa.float64()))
    frame = scan(files, columns).collect()
    assert frame.schema == pl.Schema({"renamed": pl.Int64, "a": pl.String, "b": pl.Float64})
    assert sorted(frame.rows()) == [(1, None, 0.5), (2, None, 1.5), (4, "y", None), (2**40, "x", None)]
    assert scan(files, columns).select(pl.len()).collect().item() == 4


def test_files_are_skipped_by_the_statistics_that_are_passed(files: list[Path]) -> None:
    columns = schema_with_ids(renamed=(1, pa.int64()))
    statistics = pl.DataFrame(
        {"len": [2, 2], "renamed_nc": [0, 0], "renamed_min": [1, 4], "renamed_max": [2, 2**40]},
        schema_overrides={"len": pl.UInt32, "renamed_nc": pl.UInt32},
    )
    files[0].unlink()  # a file that must not be opened
    paths = [*files]
    frame = pl.scan_parquet(
        [str(path) for path in paths],
        schema=dict(pl.Schema(columns)),
        glob=False,
        _column_mapping=("iceberg-column-mapping", columns, None),
        extra_columns="ignore",
        _table_statistics=statistics,
    )
    assert frame.filter(pl.col("renamed") > 2).collect()["renamed"].to_list() == [2**40, 4]
