"""The window kernel: computes the aggregations of a windowed view at many moments.

The window of an aggregation at t is [floor(t - W, hop), t), so an event at exactly t is not in it; with an
offset it is [floor(t - offset - W, hop), floor(t - offset, hop)). The online store computes the same values
from tiles (`online.tiles`).

An event counts only where serving could have counted it: it is known before t, too (`offline.known`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.features.aggregates import SortedColumn, aggregate_of
from headrace.features.aggregates.column import Ints
from headrace.features.offline.columns import name_value_errors
from headrace.features.offline.known import CODE, GROUP, KNOWN, TIME, find_ahead, select_known
from headrace.features.plan import AggregateFunction, Aggregation, WindowedView
from headrace.features.values.columns import POLARS, countable, micros_of

__all__ = ["aggregate"]

_MAX_KEYS = 1 << 62
_SHARE = 1_000_000  # rows and events that are computed together, so that their columns stay in the cache


def aggregate(
    view: WindowedView,
    rows: pl.DataFrame,
    events: pl.DataFrame | pl.LazyFrame,
    *,
    at: str,
    known_at: str | None = None,
    ends: Mapping[int, str] | None = None,
) -> pl.DataFrame:
    """Computes the view's features for each row.

    Args:
        view: the features to compute.
        rows: the view's keys, and the moment in column `at` (a UTC datetime, never null).
        events: the view's keys, time and columns, in any order. An event with a null key or time is
            in no window.
        at: the name of the column that holds the moment.
        known_at: the events' column with the instant from which each is known; null: from its time. An event
            that is not known before a moment is not in the moment's windows. None: all are known.
        ends: log partition → the rows' column with an offset (Int64). An event at or after it is not in the
            row's windows. The events have `_log_partition` and `_log_offset`, and none is of another partition.

    Returns:
        One column for each feature, of its dtype, in the order of `rows`. For no events, counts are 0, and
        every other function gives null.
    """
    if rows.is_empty():
        return pl.DataFrame(schema={field.name: POLARS[field.dtype] for field in view.features})
    moments = rows.select(micros_of(at)).to_series().to_numpy()
    limits, known = moments[:, np.newaxis], []
    if ends:
        limits = rows.select(ends.values()).to_numpy()
        groups = pl.col("_log_partition").replace_strict({partition: i for i, partition in enumerate(ends)})
        known = [pl.col("_log_offset").alias(KNOWN), groups.cast(pl.Int32).alias(GROUP)]
    elif known_at is not None:
        known = [pl.coalesce(micros_of(known_at), micros_of(view.time)).alias(KNOWN)]
        known.append(pl.lit(0, pl.Int8).alias(GROUP))
    codes, reachable = _encode_entities(view, rows, events.lazy(), moments, known)
    features = _compute(view, codes, moments, reachable)
    if known:
        late = reachable if ends else reachable.filter(pl.col(KNOWN) > pl.col(TIME))
        ahead = find_ahead(codes, moments, limits, late)
        for indexes, visible in select_known(ahead, codes, moments, limits, reachable, view.longest):
            again = _compute(view, np.arange(len(indexes)), moments[indexes], visible)
            order = np.arange(len(codes))
            order[indexes] = len(codes) + np.arange(len(indexes))
            features = pl.concat([features, again])[order]
    return features


def _compute(view: WindowedView, codes: Ints, moments: Ints, events: pl.DataFrame) -> pl.DataFrame:
    """The features of rows with these entities and moments, from all events, in the order of the rows."""

    def compute(share: _Share) -> tuple[Ints, pl.DataFrame]:
        block = _Block(share, codes, moments, events)
        return block.rows, block.compute(view.aggregations)

    # numpy and Polars compute without the lock of Python.
    with ThreadPoolExecutor(pl.thread_pool_size(), "windows") as threads:
        results = list(threads.map(compute, _divide(codes, moments, events)))
    # Each row is in one block: the blocks' results are concatenated and put back into the order of the rows.
    order = np.empty(len(codes), dtype=np.int64)
    order[np.concatenate([rows for rows, _ in results])] = np.arange(len(codes))
    return pl.concat([features for _, features in results], rechunk=True)[order]


def _encode_entities(
    view: WindowedView, rows: pl.DataFrame, events: pl.LazyFrame, moments: Ints, known: Sequence[pl.Expr]
) -> tuple[Ints, pl.DataFrame]:
    """A number for each entity of the rows [m], and the events that any of their windows can hold.

    Rows without a key get a number that no event has.
    """
    # The keys get other names, because an aggregated column may be a key, too.
    keys = {key: f"__key_{place}" for place, key in enumerate(view.keys)}
    named_rows = rows.select(pl.col(key).alias(name) for key, name in keys.items())
    names = list(keys.values())
    entities = named_rows.drop_nulls().unique(maintain_order=True).with_row_index(CODE)
    entities = entities.with_columns(pl.col(CODE).cast(pl.Int64))
    codes = named_rows.join(entities, on=names, how="left", maintain_order="left")[CODE]
    earliest, latest = view.earliest(int(moments.min())), int(moments.max())
    aggregated = {aggregation.column for aggregation in view.aggregations}
    columns = [field for field in view.columns if field.name in aggregated]
    reachable = (
        events.select(
            *(pl.col(key).cast(rows.schema[key]).alias(name) for key, name in keys.items()),
            micros_of(view.time).alias(TIME),
            *known,
            *(countable(field.name, field.dtype).alias(field.name) for field in columns),
        )
        .filter(pl.col(TIME) >= earliest, pl.col(TIME) < latest)
        .join(entities.lazy(), on=names, how="inner")
        .drop(names)
    )
    with name_value_errors(view, events):
        frame = reachable.collect(engine="streaming").rechunk()  # values are gathered three times as fast
    return codes.fill_null(len(entities)).to_numpy(), frame


class _Share(NamedTuple):
    """Consecutive entities, which are computed together.

    Attributes:
        rows, events: the indexes of their rows and events, int64; None: all.
        first: the number of the first entity.
        start, span: (entity - first) · span + (time - start) is one int64, for their rows and events.
    """

    rows: Ints | None
    events: Ints | None
    first: int
    start: int
    span: int


def _divide(codes: Ints, moments: Ints, events: pl.DataFrame) -> list[_Share]:
    """Divides the entities into shares of about _SHARE rows and events, unless a single entity has more."""
    start = min(int(moments.min()), int(events[TIME].to_numpy().min(initial=moments.min())))
    span = int(moments.max()) - start + 1
    entities = int(codes.max()) + 1
    event_codes = events[CODE].to_numpy()
    sizes = np.bincount(event_codes, minlength=entities) + np.bincount(codes, minlength=entities)
    ends = np.cumsum(sizes)
    by_size = np.searchsorted(ends, np.arange(_SHARE, ends[-1], _SHARE))
    bounds = np.union1d(by_size, np.arange(0, entities, max(_MAX_KEYS // span, 1)))
    if len(bounds) == 1:
        return [_Share(None, None, 0, start, span)]
    share_of = np.repeat(np.arange(len(bounds)), np.diff(np.append(bounds, entities)))
    share_of = share_of.astype(np.min_scalar_type(len(bounds)))  # small numbers are sorted by their digits
    rows, members = (_group(share_of[numbers], len(bounds)) for numbers in (codes, event_codes))
    return [_Share(*share, start, span) for share in zip(rows, members, bounds.tolist(), strict=True)]


def _group(numbers: NDArray[Any], groups: int) -> list[Ints]:
    """The indexes, ascending, of each number from 0 to below `groups`."""
    ends = np.cumsum(np.bincount(numbers, minlength=groups))
    return np.split(np.argsort(numbers, kind="stable"), ends[:-1])


class _Block:
    """Rows and events of some entities, both sorted by (entity, time).

    Attributes:
        rows: the indexes of the sorted rows among all rows, int64 [m].
    """

    def __init__(self, share: _Share, codes: Ints, moments: Ints, events: pl.DataFrame) -> None:
        self._start, self._span = share.start, share.span
        rows = np.arange(len(codes)) if share.rows is None else share.rows
        self._events = events if share.events is None else events[share.events]
        codes, moments = codes[rows] - share.first, moments[rows]
        order = np.argsort(codes * self._span + (moments - self._start))
        self.rows = rows[order]
        self._entity = codes[order] * self._span
        self._moments = moments[order]
        packed = self._events.select((pl.col(CODE) - share.first) * self._span + (pl.col(TIME) - self._start))
        keys = packed.to_series().to_numpy()
        self._event_order = np.argsort(keys)
        self._event_keys: Ints = keys[self._event_order]
        # For each row, how many events come before its moment; those of earlier entities count.
        self._high: Ints = np.searchsorted(self._event_keys, self._entity + (self._moments - self._start))
        self._edges: dict[tuple[int, int], Ints] = {}
        self._columns: dict[str, SortedColumn] = {}

    def compute(self, aggregations: Sequence[Aggregation]) -> pl.DataFrame:
        """Computes features of the block's rows, in the block's order.

        All windows of one function over one column are computed together, because much of the work is for the
        column and not for the ranges.
        """
        alike: dict[tuple[str, AggregateFunction], list[Aggregation]] = {}
        for aggregation in aggregations:
            alike.setdefault((aggregation.column, aggregation.function), []).append(aggregation)
        features: dict[str, pl.Series] = {}
        count = len(self.rows)
        for (name, function), members in alike.items():
            column = self._column(name)
            ranges = [self._ranges(column, aggregation) for aggregation in members]
            low, high = (np.concatenate(ends) for ends in zip(*ranges, strict=True))
            results = aggregate_of(function).compute_ranges(column, low, high)
            for place, aggregation in enumerate(members):
                values = results.slice(place * count, count)
                features[aggregation.name] = values.cast(POLARS[aggregation.dtype]).alias(aggregation.name)
        return pl.DataFrame([features[aggregation.name] for aggregation in aggregations])

    def _ranges(self, column: SortedColumn, aggregation: Aggregation) -> tuple[Ints, Ints]:
        """The range of the column's values in the window of each row."""
        hop, offset = aggregation.hop, aggregation.offset
        low = self._edge(offset + aggregation.window, hop)
        return column.ranges_of(low, self._edge(offset, hop) if offset else self._high)

    def _edge(self, before: int, hop: int) -> Ints:
        """For each row, the entity's first event not before floor(t - before, hop)."""
        if (before, hop) not in self._edges:
            edges = (self._moments - before) // hop * hop - self._start
            self._edges[before, hop] = np.searchsorted(self._event_keys, self._entity + np.maximum(edges, 0))
        return self._edges[before, hop]

    def _column(self, name: str) -> SortedColumn:
        if name not in self._columns:
            values = self._events[name].gather(self._event_order)
            self._columns[name] = SortedColumn(values, self._event_keys, self._span)
        return self._columns[name]
