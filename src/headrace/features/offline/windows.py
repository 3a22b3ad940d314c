"""The window kernel: the aggregates of a windowed view at many moments, offline.

The window of an aggregation at t is [floor(t - W, hop), t): an event at exactly t is not in it. The
online store gives the same numbers from tiles (online/tiles.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from headrace.features.aggregates.exact import ExactSums, float_sums, range_means, range_sums, whole_sums
from headrace.features.aggregates.ranges import distinct, extremes, prefix_counts
from headrace.features.plan import Aggregation, WindowedView
from headrace.features.values.columns import POLARS, counted, micros_of

__all__ = ["aggregate"]

Ints = NDArray[np.int64]
Values = NDArray[Any]
_CODE, _TIME = "__code", "__time"
_MOST_KEYS = 1 << 62


def aggregate(
    view: WindowedView, rows: pl.DataFrame, events: pl.DataFrame | pl.LazyFrame, *, at: str
) -> pl.DataFrame:
    """The view's features for each row.

    Args:
        view: what to compute.
        rows: the view's keys, and the moment in column `at` (a UTC datetime, never null).
        events: the view's keys, time and columns, in any order. An event with a null key or time is
            in no window.
        at: the name of the column that holds the moment.

    Returns:
        One column a feature, of its dtype, in the order of `rows`. Counts of nothing are 0; anything
        else of nothing is null.
    """
    if rows.is_empty():
        return pl.DataFrame(schema={one.name: POLARS[one.dtype] for one in view.aggregations})
    moments = rows.select(micros_of(at)).to_series().to_numpy()
    codes, found = _coded(view, rows, events.lazy(), moments)
    places: list[Ints] = []
    made: list[list[pl.Series]] = []
    for block in _blocks(codes, moments, found, view):
        places.append(block.rows)
        made.append([_aggregated(one, block).alias(one.name) for one in view.aggregations])
    # Each row is in one block: the blocks' results one after another, then back in the rows' order.
    back = np.empty(len(rows), dtype=np.int64)
    back[np.concatenate(places)] = np.arange(len(rows))
    return pl.DataFrame([pl.concat(parts).gather(back) for parts in zip(*made, strict=True)])


def _coded(
    view: WindowedView, rows: pl.DataFrame, events: pl.LazyFrame, moments: Ints
) -> tuple[Ints, pl.DataFrame]:
    """A number for each entity of the rows [m], and the events that any of their windows can hold.

    Rows without a key get a number that no event has.
    """
    keys = list(view.keys)
    entities = rows.select(keys).drop_nulls().unique(maintain_order=True).with_row_index(_CODE)
    entities = entities.with_columns(pl.col(_CODE).cast(pl.Int64))
    codes = rows.select(keys).join(entities, on=keys, how="left", maintain_order="left")[_CODE]
    earliest, latest = int(moments.min()) - view.longest, int(moments.max())
    used = {one.column for one in view.aggregations}
    found = (
        events.select(
            *keys,
            micros_of(view.time).alias(_TIME),
            *(counted(one.name, one.dtype).alias(one.name) for one in view.columns if one.name in used),
        )
        .filter(pl.col(_TIME) >= earliest, pl.col(_TIME) < latest)
        .join(entities.lazy(), on=keys, how="inner")
        .drop(keys)
        .collect()
    )
    return codes.fill_null(len(entities)).to_numpy(), found


def _blocks(codes: Ints, moments: Ints, events: pl.DataFrame, view: WindowedView) -> Iterator[_Block]:
    """The rows and their events, in as few blocks of entities as let (entity, time) be one int64."""
    start = int(moments.min()) - view.longest
    span = int(moments.max()) - start + 1
    step = max(_MOST_KEYS // span, 1)
    most = int(codes.max()) + 1
    for first in range(0, most, step):
        if most <= step:
            yield _Block(np.arange(len(codes)), codes, moments, events, start, span)
            return
        rows = np.flatnonzero((codes >= first) & (codes < first + step))
        inside = pl.col(_CODE).is_between(first, first + step, closed="left")
        block = events.filter(inside).with_columns(pl.col(_CODE) - first)
        yield _Block(rows, codes[rows] - first, moments[rows], block, start, span)


class _Block:
    """Rows and events of some entities, both sorted by (entity, time).

    Attributes:
        rows: the places of the sorted rows among all rows, int64 [m].
        keys: the sorted events' (entity, time) as one number, int64 [n].
        order: the places of the sorted events in `events`.
        high: for each row, how many events of `keys` lie before its moment or its entity's end.
    """

    def __init__(
        self, rows: Ints, codes: Ints, moments: Ints, events: pl.DataFrame, start: int, span: int
    ) -> None:
        self._start, self._span, self._events = start, span, events
        order = pl.Series(codes * span + (moments - start)).arg_sort().to_numpy()
        self.rows = rows[order]
        self._entity = codes[order] * span
        self._moments = moments[order]
        packed = events.select(pl.col(_CODE) * span + (pl.col(_TIME) - start)).to_series()
        self.order = packed.arg_sort()
        self.keys: Ints = packed.gather(self.order).to_numpy()
        self.high: Ints = np.searchsorted(self.keys, self._entity + (self._moments - start))
        self._lows: dict[tuple[int, int], Ints] = {}
        self._columns: dict[str, _Column] = {}

    def low(self, window: int, hop: int) -> Ints:
        """For each row, the first event of `keys` in its window."""
        if (window, hop) not in self._lows:
            begins = (self._moments - window) // hop * hop - self._start
            self._lows[window, hop] = np.searchsorted(self.keys, self._entity + np.maximum(begins, 0))
        return self._lows[window, hop]

    def column(self, name: str) -> _Column:
        """A column of the events, in their sorted order."""
        if name not in self._columns:
            self._columns[name] = _Column(self._events[name].gather(self.order), self.keys, self._span)
        return self._columns[name]


class _Column:
    """The values of one column that count, in the order of (entity, time).

    Attributes:
        before: how many of the first i events count, int64 [n + 1]; None: all of them do.
        names: the strings that `values` number, in their order; None: `values` are the values.
        values: int64 or float64.
        keys: the (entity, time) of each value, as one number.
    """

    def __init__(self, series: pl.Series, keys: Ints, span: int) -> None:
        self._span = span
        self.before: Ints | None = None
        if series.null_count():
            counts = series.is_not_null().to_numpy()
            self.before, keys, series = prefix_counts(counts), keys[counts], series.drop_nulls()
        self.names: pl.Series | None = None
        if series.dtype == pl.String:
            self.names = series.unique().sort()
            places = pl.DataFrame({"name": self.names, "place": np.arange(len(self.names))})
            joined = series.to_frame("name").join(places, on="name", how="left", maintain_order="left")
            series = joined["place"]
        self.values: Values = series.to_numpy()
        self.keys = keys

    def ranges(self, low: Ints, high: Ints) -> tuple[Ints, Ints]:
        """Ranges of events as ranges of values that count."""
        return (low, high) if self.before is None else (self.before[low], self.before[high])

    @cached_property
    def sums(self) -> ExactSums:
        """Prefix sums of the true values."""
        return float_sums(self.values) if self.values.dtype == np.float64 else whole_sums(self.values)

    @cached_property
    def wrapped_sums(self) -> Ints:
        """Prefix sums of whole numbers, wrapped around as int64."""
        return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(self.values)])

    @cached_property
    def in_order(self) -> Values:
        """The values with those of one entity and time in the order of their size."""
        tied = self.keys[1:] == self.keys[:-1]
        if not tied.any():
            return self.values
        some = np.flatnonzero(np.append(tied, False) | np.append(False, tied))
        values = self.values.copy()
        values[some] = values[some][np.lexsort((values[some], self.keys[some]))]
        return values

    @cached_property
    def same_before(self) -> Ints:
        """For each value, the place of the entity's same value before it plus one, or 0."""
        entity = self.keys // self._span
        order = np.lexsort((self.values, entity))  # stable: equal ones stay in the order of time
        same = (entity[order][1:] == entity[order][:-1]) & (self.values[order][1:] == self.values[order][:-1])
        before = np.zeros(len(order), dtype=np.int64)
        before[order[1:][same]] = order[:-1][same] + 1
        return before


def _aggregated(one: Aggregation, block: _Block) -> pl.Series:
    """One feature of the block's rows, in the block's order."""
    column = block.column(one.column)
    low, high = column.ranges(block.low(one.window, one.hop), block.high)
    kind = one.function.name
    some = high > low
    if kind == "count":
        return pl.Series(high - low, dtype=pl.Int64)
    if kind == "count_distinct":
        return pl.Series(distinct(column.same_before, low, high), dtype=pl.Int64)
    if kind == "last_n":
        return _last_n(one, column, low, high)
    if kind == "mean":
        return _series(range_means(column.sums, low, high), some, None, one)
    if kind == "sum":
        if one.dtype == "float64":
            return _series(range_sums(column.sums, low, high), some, None, one)
        return _series(column.wrapped_sums[high] - column.wrapped_sums[low], some, None, one)
    if kind in ("min", "max"):
        return _series(extremes(column.values, low, high, largest=kind == "max"), some, column.names, one)
    place = low if kind == "first" else high - 1
    picked = np.zeros(len(low), dtype=column.values.dtype)
    picked[some] = column.in_order[place[some]]
    return _series(picked, some, column.names, one)


def _last_n(one: Aggregation, column: _Column, low: Ints, high: Ints) -> pl.Series:
    first = np.maximum(low, high - one.function.n)
    sizes = high - first
    ends = np.cumsum(sizes)
    flat = np.arange(ends[-1]) - np.repeat(ends - sizes - first, sizes)
    values = pl.Series(column.in_order[flat])
    named = values if column.names is None else column.names.gather(values)
    lists = pa.LargeListArray.from_arrays(
        pa.array(np.append(0, ends)), named.to_arrow(), mask=pa.array(sizes == 0)
    )
    return pl.Series(values=lists).cast(POLARS[one.dtype])


def _series(values: Values, some: NDArray[np.bool_], names: pl.Series | None, one: Aggregation) -> pl.Series:
    """The values, null where `some` is false, as the feature's dtype."""
    series = pl.Series(values=pa.array(values, mask=~some))
    return (series if names is None else names.gather(series)).cast(POLARS[one.dtype])
