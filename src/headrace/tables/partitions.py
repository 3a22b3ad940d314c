"""The partitions of rows: the number of each row's partition, as a Polars expression."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl

from headrace.declare.partitioning import Partitioning, start_of
from headrace.lake.partitions import bucket_numbers

__all__ = ["input_numbers", "is_key", "is_moment", "partition_numbers", "select_partitions"]

_EPOCH_HOUR = 3_600_000_000  # microseconds
_MAX_OFFSET = timedelta(days=1)  # no time zone is further from UTC


def is_moment(dtype: pl.DataType | type[pl.DataType], grain: str) -> bool:
    """Whether values of this type lie in hours, days or months: a date lies in no hour."""
    return isinstance(dtype, pl.Datetime) or (dtype == pl.Date and grain != "hour")


def is_key(dtype: pl.DataType | type[pl.DataType]) -> bool:
    """Whether values of this type can be the key of a hash."""
    return dtype.is_integer() or dtype in (pl.String, pl.Date, pl.Categorical, pl.Enum)


def partition_numbers(
    partitioning: Partitioning, column: str, dtype: pl.DataType | type[pl.DataType]
) -> pl.Expr:
    """The number of each row's partition, Int32; null for a row without a value in the column.

    A date, and a time without a zone, is taken as it is; an instant in the partitioning's zone.

    Args:
        partitioning: the partitioning.
        column: the column of the rows, which may have another name than the partitioning's.
        dtype: its type.
    """
    values = pl.col(column)
    if not partitioning.is_time:
        if dtype in (pl.Categorical, pl.Enum):
            values = values.cast(pl.String)

        def hash_values(series: pl.Series) -> pl.Series:
            return pl.Series(bucket_numbers(series.to_arrow(), partitioning.parts), dtype=pl.Int32)

        return values.map_batches(hash_values, return_dtype=pl.Int32, is_elementwise=True)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        values = values.dt.convert_time_zone(partitioning.timezone or "UTC")
    if partitioning.grain == "hour":
        return (values.dt.replace_time_zone(None).dt.epoch("us") // _EPOCH_HOUR).cast(pl.Int32)
    if partitioning.grain == "month":
        return (values.dt.year().cast(pl.Int32) - 1970) * 12 + values.dt.month().cast(pl.Int32) - 1
    return values.dt.date().cast(pl.Int32) if isinstance(dtype, pl.Datetime) else values.cast(pl.Int32)


def input_numbers(partitioning: Partitioning, column: str, dtype: pl.DataType | type[pl.DataType]) -> pl.Expr:
    """The partition that each row of an input is read for: its own; the first part for a row without a key."""
    numbers = partition_numbers(partitioning, column, dtype)
    return numbers if partitioning.is_time else numbers.fill_null(0)


def select_partitions(
    frame: pl.LazyFrame, partitioning: Partitioning, column: str, first: int, last: int
) -> pl.LazyFrame:
    """The rows whose partition is from `first` to `last`. Whole files are skipped where their bounds allow."""
    dtype = frame.collect_schema()[column]
    numbers = input_numbers(partitioning, column, dtype)
    if not partitioning.is_time:
        is_all = (first, last) == partitioning.limits
        return frame if is_all else frame.filter(numbers.is_between(first, last))
    lowest, highest = partitioning.limits
    begin = start_of(partitioning.grain, max(first, lowest))
    end = None if last >= highest else start_of(partitioning.grain, last + 1)  # later moments do not exist
    if not isinstance(dtype, pl.Datetime):
        bounds = [pl.col(column) >= begin.date(), *([] if end is None else [pl.col(column) < end.date()])]
        return frame.filter(bounds)
    if dtype.time_zone is None or partitioning.timezone is None:
        return frame.filter(_bounds(column, dtype, begin, end))
    wide = _bounds(column, dtype, _earlier(begin), None if end is None else _later(end))
    return frame.filter(*wide, numbers.is_between(first, last))


def _bounds(column: str, dtype: pl.Datetime, begin: datetime, end: datetime | None) -> list[pl.Expr]:
    bounds = [pl.col(column) >= _literal(begin, dtype)]
    return bounds if end is None else [*bounds, pl.col(column) < _literal(end, dtype)]


def _literal(moment: datetime, dtype: pl.Datetime) -> pl.Expr:
    """The moment in the column's time zone."""
    if dtype.time_zone is None:
        return pl.lit(moment)
    literal = pl.lit(moment.replace(tzinfo=UTC))
    return literal if dtype.time_zone == "UTC" else literal.dt.convert_time_zone(str(dtype.time_zone))


def _earlier(moment: datetime) -> datetime:
    return moment if moment - datetime.min < _MAX_OFFSET else moment - _MAX_OFFSET


def _later(moment: datetime) -> datetime:
    return moment if datetime.max - moment < _MAX_OFFSET else moment + _MAX_OFFSET
