"""Sum, mean and count_if. All come from the exact sum of the values, whatever the order of adding."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import polars as pl

from headrace.features.aggregates.aggregate import Aggregate, TilePart, TileReader, Track
from headrace.features.aggregates.column import Ints, SortedColumn
from headrace.features.aggregates.counts import COUNT_PART, count_reader
from headrace.features.aggregates.exact import mean_of, range_means, range_sums, sum_of, total_of
from headrace.features.plan import Dtype

__all__ = ["CountIf", "Mean", "Sum", "check_number", "pack_whole", "sum_part", "unpack_whole", "whole_total"]

_FLOAT_SUM = TilePart("sum", lambda _, values: total_of(values), lambda a, b: total_of([*a, *b]))
_WHOLE_SUM = TilePart(
    "sum", lambda _, values: pack_whole(sum(values)), lambda a, b: pack_whole(whole_total([a, b], []))
)


class Sum(Aggregate):
    """The sum of numbers; booleans are 0 and 1. Whole sums wrap around as int64; null for no values."""

    name = "sum"
    spellings = ("sum",)

    def result_dtype(self, column: Dtype) -> Dtype:
        """See Aggregate."""
        check_number(column)
        return "float64" if column == "float64" else "int64"

    def compute_ranges(self, column: SortedColumn, low: Ints, high: Ints) -> pl.Series:
        """See Aggregate."""
        if column.is_float:
            return column.series_of(range_sums(column.sums, low, high), high > low)
        return column.series_of(column.wrapped_sums[high] - column.wrapped_sums[low], high > low)

    def tile_parts(self, column: Dtype) -> tuple[TilePart, ...]:
        """See Aggregate."""
        return (sum_part(column),)

    def tile_reader(self, indexes: Mapping[str, int], column: Dtype) -> TileReader:
        """See Aggregate."""
        index, add = indexes["sum"], _add_floats if column == "float64" else _add_whole

        def read(tiles: Track, _: list[int], values: list[Any]) -> object:
            totals = tiles[index]
            return add(totals, values) if totals or values else None

        return read


class Mean(Aggregate):
    """The exact sum, rounded to a double, divided by the count; null for no values."""

    name = "mean"
    spellings = ("mean", "avg")

    def result_dtype(self, column: Dtype) -> Dtype:
        """See Aggregate."""
        check_number(column)
        return "float64"

    def compute_ranges(self, column: SortedColumn, low: Ints, high: Ints) -> pl.Series:
        """See Aggregate."""
        return column.series_of(range_means(column.sums, low, high), high > low)

    def tile_parts(self, column: Dtype) -> tuple[TilePart, ...]:
        """See Aggregate."""
        return (COUNT_PART, sum_part(column))

    def tile_reader(self, indexes: Mapping[str, int], column: Dtype) -> TileReader:
        """See Aggregate."""
        index, count_values = indexes["sum"], count_reader(indexes)
        mean = _mean_of_floats if column == "float64" else _mean_of_whole

        def read(tiles: Track, times: list[int], values: list[Any]) -> object:
            count: Any = count_values(tiles, times, values)
            return mean(tiles[index], values, count) if count else None

        return read


class CountIf(Aggregate):
    """The number of values that are true; 0 for no values."""

    name = "count_if"
    spellings = ("count_if",)

    def result_dtype(self, column: Dtype) -> Dtype:
        """See Aggregate."""
        if column != "bool":
            raise TypeError(f"needs a condition, true or false, but the column is {column}")
        return "int64"

    def compute_ranges(self, column: SortedColumn, low: Ints, high: Ints) -> pl.Series:
        """See Aggregate."""
        return pl.Series(column.wrapped_sums[high] - column.wrapped_sums[low], dtype=pl.Int64)

    def tile_parts(self, column: Dtype) -> tuple[TilePart, ...]:
        """See Aggregate."""
        return (sum_part(column),)

    def tile_reader(self, indexes: Mapping[str, int], column: Dtype) -> TileReader:
        """See Aggregate."""
        index = indexes["sum"]
        return lambda tiles, _, values: whole_total(tiles[index], values)


def check_number(column: Dtype) -> None:
    """Raises TypeError unless the column has numbers or booleans."""
    if column not in ("int64", "float64", "bool"):
        raise TypeError(f"needs numbers, but the column is {column}")


def sum_part(column: Dtype) -> TilePart:
    """The part with the exact sum."""
    return _FLOAT_SUM if column == "float64" else _WHOLE_SUM


def _add_floats(totals: list[Any], values: list[Any]) -> float:
    return sum_of([*chain.from_iterable(totals), *values])


def _mean_of_floats(totals: list[Any], values: list[Any], count: int) -> float:
    return mean_of([*chain.from_iterable(totals), *values], count)


def _add_whole(totals: list[Any], values: list[Any]) -> int:
    """The sum, wrapped around as int64."""
    total = whole_total(totals, values)
    return total if _is_int64(total) else (total + (1 << 63)) % (1 << 64) - (1 << 63)


def _mean_of_whole(totals: list[Any], values: list[Any], count: int) -> float:
    return float(whole_total(totals, values)) / count


def whole_total(totals: list[Any], values: list[Any]) -> int:
    """The exact sum of whole numbers and of results of `pack_whole`."""
    total: int = sum(values)
    try:
        total += sum(totals)
    except TypeError:  # a total is a string
        total += sum(map(unpack_whole, totals))
    return total


def pack_whole(total: int) -> int | str:
    """A whole number in a form that MessagePack can hold: beyond int64, a string of hexadecimal digits."""
    return total if _is_int64(total) else hex(total)


def unpack_whole(part: int | str) -> int:
    """The whole number that `pack_whole` packed."""
    return int(part, 16) if isinstance(part, str) else part


def _is_int64(value: int) -> bool:
    return -(1 << 63) <= value < 1 << 63
