"""Aggregate: the interface of an aggregate function, for the window kernel and the online tiles.

Offline, a function receives the sorted values of one column and computes a result for each of many ranges.
Online, the events of a hop are condensed into a tile, which holds one value for each `TilePart`; a result is
read from the tiles and the unsettled events of a window. Both give the same value to the bit, in whatever
order the events arrive.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import polars as pl

from headrace.features.aggregates.column import Ints, SortedColumn
from headrace.features.plan import Dtype
from headrace.kernel.time import from_micros

__all__ = ["Aggregate", "TilePart", "TileReader", "Track", "restore_of"]

Track = list[list[Any]]
"""The tiles of one column at one hop as parallel lists: their begins, then one list for each part."""

TileReader = Callable[[Track, list[int], list[Any]], object]
"""Reads a result from the tiles of a window, and the times and values of the unsettled events in it, without
those whose value is null."""


class TilePart(NamedTuple):
    """One value that a tile holds. Aggregations of one column share the parts of equal name.

    Attributes:
        name: the part's name.
        make: makes the value from the times and values of the tile's events, in order of time and without
            nulls.
        merge: merges the values of two tiles into the value of all their events.
        size: of several parts with the same name, the one with the greatest size is kept.
    """

    name: str
    make: Callable[[list[int], list[Any]], Any]
    merge: Callable[[Any, Any], Any]
    size: int = 0


class Aggregate(ABC):
    """One aggregate function.

    Args:
        n: the parameter; 0 for a function without one.

    Attributes:
        name: its name in a plan.
        spellings: its spellings in an aggregation; with a parameter they end in `(n)`.
        largest_n: the largest value of its parameter.
    """

    name: ClassVar[str]
    spellings: ClassVar[tuple[str, ...]]
    largest_n: ClassVar[int] = 0

    def __init__(self, n: int = 0) -> None:
        self.n = n

    @abstractmethod
    def result_dtype(self, column: Dtype) -> Dtype:
        """The dtype of the result over a column of this dtype, which is not a list.

        Raises:
            TypeError: the function does not accept such a column.
        """

    @abstractmethod
    def compute_ranges(self, column: SortedColumn, low: Ints, high: Ints) -> pl.Series:
        """The result for each of m ranges [low, high) of the column's values; null or 0 for an empty range.

        The caller casts them to the result's dtype.
        """

    @abstractmethod
    def tile_parts(self, column: Dtype) -> tuple[TilePart, ...]:
        """The parts that tiles of a column of this dtype must hold."""

    @abstractmethod
    def tile_reader(self, indexes: Mapping[str, int], column: Dtype) -> TileReader:
        """The reader of the result; `indexes` gives the index of each part in a track."""


def restore_of(dtype: Dtype) -> Callable[[Any], Any] | None:
    """The conversion from a whole number to the value that it encodes; None if values are not encoded."""
    return _RESTORE.get(dtype)


_RESTORE: dict[Dtype, Callable[[Any], Any]] = {"bool": bool, "timestamp": from_micros}
