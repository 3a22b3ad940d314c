"""Scans Parquet files with Polars so that a filter sees the values of the rows, and nothing else.

Polars 2.1 evaluates a filter at two places on other values. There, a filter that may raise (a strict cast, a
Python function) stops a build although no row makes it raise:

- While a column is decoded that alone decides about a row (`parallel="prefiltered"`, which `"auto"` chooses),
  the filter sees an empty value in place of a null. So columns are decoded whole, and filtered afterwards. A
  filter that few rows pass takes up to four times as long that way.
- To skip files and row groups, a filter is evaluated on the bounds of their values, and writers shorten the
  bounds of texts and bytes.

Every scan of Parquet files in this package is made here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

__all__ = ["drop_shortened_bounds", "scan_parquet"]

_SHORTEST_BOUND = 16
"""Iceberg's writers shorten bounds to 16 characters or bytes, unless the table says otherwise."""


def scan_parquet(
    files: Path | str | list[Path] | list[str], *, use_statistics: bool = False, **options: Any
) -> pl.LazyFrame:
    """The rows of files, not yet read.

    Args:
        files: their paths or addresses, not read as patterns.
        use_statistics: whether row groups may be skipped by the bounds in the files: only right for files whose
            writer does not shorten them, as PyArrow does not.
        options: further options of Polars' `scan_parquet`.
    """
    return pl.scan_parquet(files, glob=False, parallel="columns", use_statistics=use_statistics, **options)


def drop_shortened_bounds(statistics: pl.DataFrame) -> pl.DataFrame:
    """The statistics of data files without the bounds that may have been shortened: they become null, unknown.

    Args:
        statistics: a row for each file; the bounds of column C are `C_min` and `C_max`.
    """
    texts = pl.col(pl.String)
    values = pl.col(pl.Binary)
    return statistics.with_columns(
        pl.when(texts.str.len_chars() < _SHORTEST_BOUND).then(texts),
        pl.when(values.bin.size() < _SHORTEST_BOUND).then(values),
    )
