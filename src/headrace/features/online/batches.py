"""Groups rows by entity, as an online store writes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from headrace.features.offline.point_in_time import unique_rows
from headrace.features.online.entries import Entry, pack_entries
from headrace.features.online.keys import Key, KeySchema, PackedState
from headrace.features.online.tiles import SETTLED
from headrace.features.plan import AsOfView, WindowedView
from headrace.features.values.columns import countable, micros_of

__all__ = ["EntityEvents", "entries_by_entity", "events_by_entity", "pack_rows"]

EntityEvents = tuple[list[int], list[list[Any]]]
"""The times of an entity's events in order, and their countable values for each column of the view."""

_TIME = "__time"


def events_by_entity(view: WindowedView, rows: pa.Table, now: int) -> Iterator[tuple[Key, EntityEvents]]:
    """Each entity's events.

    Rows without a key or a time, and those that no window can reach any more, are left out.
    """
    frame = (
        pl.DataFrame(rows)
        .lazy()
        .select(
            *view.keys,
            micros_of(view.time).alias(_TIME),
            *(countable(field.name, field.dtype).alias(f"_{at}") for at, field in enumerate(view.columns)),
        )
        .drop_nulls([*view.keys, _TIME])
        .filter(pl.col(_TIME) >= view.earliest(now - SETTLED))
        .sort([*view.keys, _TIME])
        .collect()
    )
    times = frame[_TIME].to_list()
    columns = [frame[f"_{at}"].to_list() for at in range(len(view.columns))]
    for key, low, high in _groups(frame, view.keys):
        yield key, (times[low:high], [column[low:high] for column in columns])


def entries_by_entity(
    view: AsOfView, rows: pa.Table, snapshot: int | None, now: int
) -> Iterator[tuple[Key, list[Entry]]]:
    """Each entity's rows that a lookup can still see, in order of time.

    These are the newest row that was already known when the oldest running lookup began, and all later rows.
    """
    time = view.time
    known = pl.col(time) <= now - SETTLED
    newest = pl.col(time).filter(known).max()
    if view.keys:
        newest = newest.over(list(view.keys))
    frame = (
        unique_rows(view, pl.DataFrame(rows).lazy())
        .with_columns(micros_of(time).alias(time))
        .filter(True if view.ttl is None else pl.col(time) >= now - SETTLED - view.ttl)
        .filter(~known | (pl.col(time) == newest))
        .sort([*view.keys, time])
        .collect()
    )
    times = frame[time].to_list()
    values = frame.select(field.name for field in view.features).rows()
    for key, low, high in _groups(frame, view.keys):
        yield key, [(times[at], snapshot, list(values[at])) for at in range(low, high)]


def pack_rows(view: AsOfView, keys: KeySchema, rows: pa.Table, snapshot: int, now: int) -> list[PackedState]:
    """The packed state of each entity of a snapshot.

    Raises:
        ProjectError: a key's column does not have its entity's type.
    """
    keys.check(view, rows)
    pack = keys.packer()
    return [(pack(key), pack_entries(entries)) for key, entries in entries_by_entity(view, rows, snapshot, now)]


def _groups(frame: pl.DataFrame, keys: Sequence[str]) -> Iterator[tuple[Key, int, int]]:
    """Each key of a frame sorted by key, with the range of its rows."""
    if frame.is_empty():
        return
    changes = np.zeros(len(frame), dtype=np.bool_)
    changes[0] = True
    for key in keys:
        changes |= (frame[key] != frame[key].shift(1)).fill_null(True).to_numpy()
    starts = np.flatnonzero(changes)
    names = frame.select(keys)[starts].rows() if keys else [()]
    for name, (low, high) in zip(names, pairwise([*starts.tolist(), len(frame)]), strict=True):
        yield name, low, high
