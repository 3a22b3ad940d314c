"""The minimum and the maximum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import polars as pl

from headrace.features.aggregates.aggregate import (
    Aggregate,
    TilePart,
    TileReader,
    Track,
    restore_of,
)
from headrace.features.aggregates.column import Ints, SortedColumn
from headrace.features.aggregates.ranges import range_extremes
from headrace.features.plan import Dtype

__all__ = ["Max", "Min"]


class _Extreme(Aggregate):
    choose: ClassVar[Callable[..., Any]]

    def result_dtype(self, column: Dtype) -> Dtype:
        """See Aggregate."""
        return column

    def compute_ranges(self, column: SortedColumn, low: Ints, high: Ints) -> pl.Series:
        """See Aggregate."""
        extremes = range_extremes(column.values, low, high, largest=self.name == "max")
        return column.series_of(extremes, high > low, named=True)

    def tile_parts(self, column: Dtype) -> tuple[TilePart, ...]:
        """See Aggregate."""
        choose = type(self).choose
        return (TilePart(self.name, lambda _, values: choose(values), choose),)

    def tile_reader(self, indexes: Mapping[str, int], column: Dtype) -> TileReader:
        """See Aggregate."""
        index, choose, restore = indexes[self.name], type(self).choose, restore_of(column)

        def read(tiles: Track, _: list[int], values: list[Any]) -> object:
            candidates = tiles[index] + values if values else tiles[index]
            if not candidates:
                return None
            return choose(candidates) if restore is None else restore(choose(candidates))

        return read


class Min(_Extreme):
    """The smallest value; strings are ordered by their code points; null for no values."""

    name = "min"
    spellings = ("min",)
    choose = min


class Max(_Extreme):
    """The largest value; strings are ordered by their code points; null for no values."""

    name = "max"
    spellings = ("max",)
    choose = max
