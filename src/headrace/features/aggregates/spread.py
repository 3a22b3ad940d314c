"""The sample variance and the sample standard deviation: those of Feast's `var` and `std`, pandas and SQL."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, ClassVar

import polars as pl

from headrace.features.aggregates.aggregate import Aggregate, TilePart, TileReader, Track
from headrace.features.aggregates.column import Floats, Ints, SortedColumn
from headrace.features.aggregates.counts import COUNT_PART, count_reader
from headrace.features.aggregates.exact import ExactSums, total_of, units_of
from headrace.features.aggregates.moments import (
    SQUARE_UNIT,
    range_deviations,
    range_variances,
    root_of,
    variance_of,
)
from headrace.features.aggregates.sums import check_number, pack_whole, sum_part, unpack_whole, whole_total
from headrace.features.plan import Dtype

__all__ = ["StandardDeviation", "Variance"]

_WHOLE_SQUARES = TilePart(
    "squares",
    lambda _, values: pack_whole(sum(value * value for value in values)),
    lambda a, b: pack_whole(whole_total([a, b], [])),
)
_FLOAT_SQUARES = TilePart(
    "squares",
    lambda _, values: _pack_squares(_squares_of(values)),
    lambda a, b: _pack_squares(_unpack_squares(a) + _unpack_squares(b)),
)


class _Spread(Aggregate):
    compute: ClassVar[Callable[[ExactSums, ExactSums, Ints, Ints], Floats]]

    @staticmethod
    @abstractmethod
    def of(count: int, total: int, squares: int) -> float:
        """The result; arguments as of `variance_of`."""

    def result_dtype(self, column: Dtype) -> Dtype:
        """See Aggregate."""
        check_number(column)
        return "float64"

    def compute_ranges(self, column: SortedColumn, low: Ints, high: Ints) -> pl.Series:
        """See Aggregate."""
        return column.series_of(type(self).compute(column.sums, column.squares, low, high), high > low + 1)

    def tile_parts(self, column: Dtype) -> tuple[TilePart, ...]:
        """See Aggregate."""
        squares = _FLOAT_SQUARES if column == "float64" else _WHOLE_SQUARES
        return (COUNT_PART, sum_part(column), squares)

    def tile_reader(self, indexes: Mapping[str, int], column: Dtype) -> TileReader:
        """See Aggregate."""
        sums, squares, count_values = indexes["sum"], indexes["squares"], count_reader(indexes)
        moments = _float_moments if column == "float64" else _whole_moments
        of = self.of

        def read(tiles: Track, times: list[int], values: list[Any]) -> object:
            count: Any = count_values(tiles, times, values)
            return of(count, *moments(tiles[sums], tiles[squares], values)) if count > 1 else None

        return read


class Variance(_Spread):
    """The sample variance, which divides by n - 1, rounded once; null for fewer than two values."""

    name = "var"
    spellings = ("var", "variance")
    compute = range_variances
    of = staticmethod(variance_of)


class StandardDeviation(_Spread):
    """The square root of the sample variance; null for fewer than two values."""

    name = "std"
    spellings = ("std", "stddev")
    compute = range_deviations
    of = staticmethod(root_of)


def _float_moments(totals: list[Any], squares: list[Any], values: list[Any]) -> tuple[int, int]:
    """The exact sum and the exact sum of squares, in the units of `variance_of`."""
    total = units_of(total_of(chain(chain.from_iterable(totals), values)))
    return total, sum(map(_unpack_squares, squares)) + _squares_of(values)


def _whole_moments(totals: list[Any], squares: list[Any], values: list[Any]) -> tuple[int, int]:
    square = whole_total(squares, [value * value for value in values])
    return whole_total(totals, values) << -SQUARE_UNIT // 2, square << -SQUARE_UNIT


def _squares_of(values: list[Any]) -> int:
    """The exact sum of the squares of floats, in units of 2^SQUARE_UNIT."""
    units = [units_of([value]) for value in values]
    return sum(unit * unit for unit in units)


def _pack_squares(squares: int) -> list[int | str]:
    """A sum of squares without its zeros at the end, and how many bits these are."""
    zeros = (squares & -squares).bit_length() - 1 if squares else 0
    return [pack_whole(squares >> zeros), zeros]


def _unpack_squares(packed: list[Any]) -> int:
    zeros: int = packed[1]
    return unpack_whole(packed[0]) << zeros
