"""Finds the rows whose windows hold an event that was not known yet, and the events that were.

An event that arrived late is in the window of a moment between its time and its arrival, and yet serving could
not have counted it there. Such rows are few, so the kernel computes all rows with all events, and these rows
again, each with the events that were known.

An event is known to a row if its KNOWN is less than the row's limit. For a training set, KNOWN is the instant
of the event's arrival, and the limit is the row's moment. For a prediction, KNOWN is the event's offset, and
there is a limit for each log partition: the prediction's position. So events have a GROUP, and rows a limit for
each group.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.features.aggregates.column import Ints

__all__ = ["CODE", "GROUP", "KNOWN", "TIME", "find_ahead", "select_known"]

CODE, TIME, KNOWN, GROUP = "__code", "__time", "__known", "__group"
"""Columns of the kernel's events, whole numbers: the number of the entity, the time (microseconds), from when
the event is known, and the index of the limit that this is compared with."""

_PAIRS = 4_000_000  # (row, event) pairs that are expanded at once


def find_ahead(codes: Ints, moments: Ints, limits: Ints, events: pl.DataFrame) -> Ints:
    """Finds the rows with time < moment and known >= limit for any event of their entity.

    Args:
        codes, moments: int64[m], each row's entity and moment.
        limits: int64[m, g], each row's limits.
        events: CODE, TIME, KNOWN and GROUP.

    Returns:
        The indexes of these rows, ascending.
    """
    is_ahead = np.zeros(len(codes), bool)
    for (group,), members in events.group_by(GROUP):
        known = members[KNOWN].to_numpy()
        instants = np.unique(known)
        order, keys = _sort(members[CODE].to_numpy(), np.searchsorted(instants, known), len(instants))
        entities = members[CODE].to_numpy()[order]
        earliest = _earliest_from(entities, members[TIME].to_numpy()[order])
        limit = np.searchsorted(instants, limits[:, int(str(group))])
        first = np.searchsorted(keys, codes * (len(instants) + 1) + limit)
        inside = np.flatnonzero(first < len(keys))
        at = first[inside]
        is_ahead[inside] |= (entities[at] == codes[inside]) & (earliest[at] < moments[inside])
    return np.flatnonzero(is_ahead)


def _earliest_from(entities: Ints, times: Ints) -> Ints:
    """The earliest time of each event and those after it of the same entity. The entities are sorted."""
    frame = pl.DataFrame({CODE: entities, TIME: times})
    return frame.select(pl.col(TIME).cum_min(reverse=True).over(CODE)).to_series().to_numpy()


def select_known(
    rows: Ints, codes: Ints, moments: Ints, limits: Ints, events: pl.DataFrame, longest: int
) -> Iterator[tuple[Ints, pl.DataFrame]]:
    """Selects, for each of some rows, the events in reach of its windows that were known to it.

    Args:
        rows: the indexes of the rows.
        codes, moments, limits: the entity, moment and limits of all rows, as for `find_ahead`.
        events: CODE, TIME, KNOWN, GROUP, and the aggregated columns.
        longest: how far back a window reaches, microseconds.

    Yields:
        Some of the rows' indexes, and their events: without KNOWN and GROUP, and with the place of the row
        among these indexes as CODE.
    """
    times = events[TIME].to_numpy()
    instants = np.unique(times)
    order, keys = _sort(events[CODE].to_numpy(), np.searchsorted(instants, times), len(instants))
    entity, at = codes[rows] * (len(instants) + 1), moments[rows]
    first = np.searchsorted(keys, entity + np.searchsorted(instants, at - longest))
    counts = np.searchsorted(keys, entity + np.searchsorted(instants, at)) - first
    known, groups = events[KNOWN].to_numpy()[order], events[GROUP].to_numpy()[order]
    for begin, end in _chunks(counts):
        places = np.repeat(np.arange(end - begin), counts[begin:end])
        starts = np.repeat(
            first[begin:end] - np.cumsum(counts[begin:end]) + counts[begin:end], counts[begin:end]
        )
        indexes = starts + np.arange(len(places))
        is_known = known[indexes] < limits[rows[begin:end]][places, groups[indexes]]
        chosen = events.drop(CODE, KNOWN, GROUP)[order[indexes[is_known]]]
        yield rows[begin:end], chosen.with_columns(pl.Series(CODE, places[is_known], dtype=pl.Int64))


def _sort(codes: Ints, ranks: NDArray[np.int64], instants: int) -> tuple[Ints, Ints]:
    """The order by (entity, rank of the instant), and the sorted keys."""
    keys = codes * (instants + 1) + ranks
    order = np.argsort(keys, kind="stable")
    return order, keys[order]


def _chunks(counts: Ints) -> Iterator[tuple[int, int]]:
    """Consecutive ranges with at most _PAIRS pairs each, unless a single row has more."""
    total, begin = 0, 0
    for index, count in enumerate(counts.tolist()):
        if total + count > _PAIRS and index > begin:
            yield begin, index
            total, begin = 0, index
        total += count
    if len(counts):
        yield begin, len(counts)
