"""Counts: of values, and of distinct values."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from headrace.features.aggregates.aggregate import Aggregate, TilePart, TileReader
from headrace.features.aggregates.column import Ints, SortedColumn
from headrace.features.aggregates.ranges import count_distinct
from headrace.features.plan import Dtype

__all__ = ["COUNT_PART", "Count", "CountDistinct", "count_reader"]

COUNT_PART = TilePart("count", lambda _, values: len(values), lambda a, b: a + b)


class Count(Aggregate):
    """The number of values; 0 for no values."""

    name = "count"
    spellings = ("count",)

    def result_dtype(self, column: Dtype) -> Dtype:
        """See Aggregate."""
        return "int64"

    def compute_ranges(self, column: SortedColumn, low: Ints, high: Ints) -> pl.Series:
        """See Aggregate."""
        return pl.Series(high - low, dtype=pl.Int64)

    def tile_parts(self, column: Dtype) -> tuple[TilePart, ...]:
        """See Aggregate."""
        return (COUNT_PART,)

    def tile_reader(self, indexes: Mapping[str, int], column: Dtype) -> TileReader:
        """See Aggregate."""
        return count_reader(indexes)


class CountDistinct(Aggregate):
    """The exact number of distinct values; 0 for no values."""

    name = "count_distinct"
    spellings = ("count_distinct",)

    def result_dtype(self, column: Dtype) -> Dtype:
        """See Aggregate."""
        return "int64"

    def compute_ranges(self, column: SortedColumn, low: Ints, high: Ints) -> pl.Series:
        """See Aggregate."""
        return pl.Series(count_distinct(column.previous_equal, low, high), dtype=pl.Int64)

    def tile_parts(self, column: Dtype) -> tuple[TilePart, ...]:
        """See Aggregate."""
        return (TilePart("distinct", lambda _, values: sorted(set(values)), lambda a, b: sorted({*a, *b})),)

    def tile_reader(self, indexes: Mapping[str, int], column: Dtype) -> TileReader:
        """See Aggregate."""
        index = indexes["distinct"]

        return lambda tiles, _, values: len(set(values).union(*tiles[index]))


def count_reader(indexes: Mapping[str, int]) -> TileReader:
    """The reader of the number of values."""
    index = indexes["count"]
    return lambda tiles, _, values: sum(tiles[index]) + len(values)
