"""The first and the last values. Of values with the same time, the greater counts as the later."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import polars as pl

from headrace.features.aggregates.aggregate import Aggregate, TilePart, TileReader, Track, restore_of
from headrace.features.aggregates.column import Ints, SortedColumn
from headrace.features.aggregates.ranges import expand
from headrace.features.plan import Dtype

__all__ = ["First", "FirstN", "Last", "LastN"]

# The largest n of first(n) and last(n), because an entity's state holds n values for each tile.
_MAX_VALUES = 1000


class First(Aggregate):
    """The earliest value; null for no values."""

    name = "first"
    spellings = ("first",)

    def result_dtype(self, column: Dtype) -> Dtype:
        """See Aggregate."""
        return column

    def compute_ranges(self, column: SortedColumn, low: Ints, high: Ints) -> pl.Series:
        """See Aggregate."""
        return _pick(column, low, high > low)

    def tile_parts(self, column: Dtype) -> tuple[TilePart, ...]:
        """See Aggregate."""
        return (
            TilePart(
                "first",
                lambda times, values: min(zip(times, values, strict=True)),
                lambda a, b: min(tuple(a), tuple(b)),
            ),
        )

    def tile_reader(self, indexes: Mapping[str, int], column: Dtype) -> TileReader:
        """See Aggregate."""
        index, restore = indexes["first"], restore_of(column)

        def read(tiles: Track, times: list[int], values: list[Any]) -> object:
            pairs = [tuple(pair) for pair in tiles[index][:1]]
            pairs.extend(zip(times, values, strict=True))
            if not pairs:
                return None
            value = min(pairs)[1]
            return value if restore is None else restore(value)

        return read


class FirstN(Aggregate):
    """The n earliest values, the earliest first; null for no values."""

    name = "first_n"
    spellings = ("first(n)",)
    largest_n: ClassVar[int] = _MAX_VALUES

    def result_dtype(self, column: Dtype) -> Dtype:
        """See Aggregate."""
        return f"list[{column}]"  # type: ignore[return-value]

    def compute_ranges(self, column: SortedColumn, low: Ints, high: Ints) -> pl.Series:
        """See Aggregate."""
        return _lists(column, low, np.minimum(high, low + self.n))

    def tile_parts(self, column: Dtype) -> tuple[TilePart, ...]:
        """See Aggregate."""
        return (_end_part("first_n", self.n, latest=False),)

    def tile_reader(self, indexes: Mapping[str, int], column: Dtype) -> TileReader:
        """See Aggregate."""
        return _end_reader(indexes["first_n"], self.n, column, latest=False)


class Last(Aggregate):
    """The latest value; null for no values."""

    name = "last"
    spellings = ("last",)

    def result_dtype(self, column: Dtype) -> Dtype:
        """See Aggregate."""
        return column

    def compute_ranges(self, column: SortedColumn, low: Ints, high: Ints) -> pl.Series:
        """See Aggregate."""
        return _pick(column, high - 1, high > low)

    def tile_parts(self, column: Dtype) -> tuple[TilePart, ...]:
        """See Aggregate."""
        return (_end_part("last", 1, latest=True),)

    def tile_reader(self, indexes: Mapping[str, int], column: Dtype) -> TileReader:
        """See Aggregate."""
        read_values = _end_reader(indexes["last"], 1, column, latest=True)

        def read(tiles: Track, times: list[int], values: list[Any]) -> object:
            last: Any = read_values(tiles, times, values)
            return None if last is None else last[0]

        return read


class LastN(Aggregate):
    """The n latest values, the oldest first; null for no values."""

    name = "last_n"
    spellings = ("last(n)",)
    largest_n: ClassVar[int] = _MAX_VALUES

    def result_dtype(self, column: Dtype) -> Dtype:
        """See Aggregate."""
        return f"list[{column}]"  # type: ignore[return-value]

    def compute_ranges(self, column: SortedColumn, low: Ints, high: Ints) -> pl.Series:
        """See Aggregate."""
        return _lists(column, np.maximum(low, high - self.n), high)

    def tile_parts(self, column: Dtype) -> tuple[TilePart, ...]:
        """See Aggregate."""
        return (_end_part("last", self.n, latest=True),)

    def tile_reader(self, indexes: Mapping[str, int], column: Dtype) -> TileReader:
        """See Aggregate."""
        return _end_reader(indexes["last"], self.n, column, latest=True)


def _pick(column: SortedColumn, indexes: Ints, present: Any) -> pl.Series:
    """The values at these indexes, null where `present` is false."""
    picked = np.zeros(len(indexes), dtype=column.values.dtype)
    picked[present] = column.in_order[indexes[present]]
    return column.series_of(picked, present, named=True)


def _lists(column: SortedColumn, low: Ints, high: Ints) -> pl.Series:
    """The values of each range as a list, null for an empty range."""
    _, indexes = expand(low, high)
    return column.lists_of(column.in_order[indexes], high - low)


def _end_part(name: str, n: int, *, latest: bool) -> TilePart:
    """The part with the n earliest or latest values, each with its time, in order."""
    end = _end_of(n, latest)
    return TilePart(
        name,
        lambda times, values: sorted(zip(times, values, strict=True))[end],
        lambda a, b: sorted(tuple(pair) for pair in chain(a, b))[end],
        n,
    )


def _end_reader(index: int, n: int, column: Dtype, *, latest: bool) -> TileReader:
    """The reader of the n earliest or latest values, the oldest first; it returns None for no values."""
    restore, end = restore_of(column), _end_of(n, latest)

    def read(tiles: Track, times: list[int], values: list[Any]) -> object:
        pairs = list(zip(times, values, strict=True))
        count = 0
        for tile in reversed(tiles[index]) if latest else tiles[index]:
            pairs.extend((time, value) for time, value in tile)
            count += len(tile)
            if count >= n:
                break
        if not pairs:
            return None
        pairs.sort()
        return [value if restore is None else restore(value) for _, value in pairs[end]]

    return read


def _end_of(n: int, latest: bool) -> slice:
    return slice(-n, None) if latest else slice(n)
