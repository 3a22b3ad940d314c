"""Finds the rows whose windows hold an event that was not known yet at the row's moment.

An event that arrived late is in the window of a moment between its time and its arrival, and yet serving could
not have counted it there. Such rows are few, so the kernel computes all rows with all events, and these rows
again, each with the events known before its moment.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.features.aggregates.column import Ints

__all__ = ["CODE", "KNOWN", "TIME", "find_ahead", "select_known"]

CODE, TIME, KNOWN = "__code", "__time", "__known"
"""Columns of the kernel's events: the number of the entity, the time, and when the event was known; int64,
instants in microseconds."""

_PAIRS = 4_000_000  # (row, event) pairs that are expanded at once


def find_ahead(codes: Ints, moments: Ints, events: pl.DataFrame) -> Ints:
    """Finds the rows with time < moment <= known for any event of their entity.

    Args:
        codes, moments: int64[m], each row's entity and moment.
        events: CODE, TIME and KNOWN.

    Returns:
        The indexes of these rows, ascending.
    """
    late = events.filter(pl.col(KNOWN) > pl.col(TIME))
    if late.is_empty():
        return np.empty(0, np.int64)
    instants = np.unique(moments)
    order, keys = _sort(codes, np.searchsorted(instants, moments), len(instants))
    entity = late[CODE].to_numpy() * (len(instants) + 1)
    first = np.searchsorted(keys, entity + np.searchsorted(instants, late[TIME].to_numpy(), "right"))
    end = np.searchsorted(keys, entity + np.searchsorted(instants, late[KNOWN].to_numpy(), "right"))
    covered = np.zeros(len(codes) + 1, np.int64)
    np.add.at(covered, first, 1)
    np.add.at(covered, end, -1)
    return np.sort(order[np.cumsum(covered)[:-1] > 0])


def select_known(
    rows: Ints, codes: Ints, moments: Ints, events: pl.DataFrame, longest: int
) -> Iterator[tuple[Ints, pl.DataFrame]]:
    """Selects, for each of some rows, the events in reach of its windows that were known before its moment.

    Args:
        rows: the indexes of the rows.
        codes, moments: int64[m], the entity and moment of all rows.
        events: CODE, TIME, KNOWN, and the aggregated columns.
        longest: how far back a window reaches, microseconds.

    Yields:
        Some of the rows' indexes, and their events: without KNOWN, and with the place of the row among these
        indexes as CODE.
    """
    times = events[TIME].to_numpy()
    instants = np.unique(times)
    order, keys = _sort(events[CODE].to_numpy(), np.searchsorted(instants, times), len(instants))
    entity, at = codes[rows] * (len(instants) + 1), moments[rows]
    first = np.searchsorted(keys, entity + np.searchsorted(instants, at - longest))
    counts = np.searchsorted(keys, entity + np.searchsorted(instants, at)) - first
    known = events[KNOWN].to_numpy()[order]
    for begin, end in _chunks(counts):
        places = np.repeat(np.arange(end - begin), counts[begin:end])
        starts = np.repeat(
            first[begin:end] - np.cumsum(counts[begin:end]) + counts[begin:end], counts[begin:end]
        )
        indexes = starts + np.arange(len(places))
        is_known = known[indexes] < at[begin:end][places]
        chosen = events.drop(CODE, KNOWN)[order[indexes[is_known]]]
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
