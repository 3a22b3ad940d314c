"""A batch of rows, taken apart by entity: what every online store writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from headrace.features.offline.point_in_time import as_of_rows
from headrace.features.online.tiles import SETTLED
from headrace.features.plan import AsOfView, WindowedView
from headrace.features.values.columns import counted, micros_of

__all__ = ["Entry", "Events", "entries_by_entity", "events_by_entity", "merged_entries"]

Key = tuple[Any, ...]
Events = tuple[list[int], list[list[Any]]]
Entry = tuple[int, int | None, list[Any]]
"""A row of an as-of view: its time, the snapshot it was read at (None: it was pushed), its features."""
_TIME = "__time"


def events_by_entity(view: WindowedView, rows: pa.Table, now: int) -> Iterator[tuple[Key, Events]]:
    """Each entity's events: their times in order, and a list of what counts for each column.

    Rows without a key or a time are left out, and those that no window can reach any more.
    """
    frame = (
        pl.DataFrame(rows)
        .lazy()
        .select(
            *view.keys,
            micros_of(view.time).alias(_TIME),
            *(counted(one.name, one.dtype).alias(f"_{at}") for at, one in enumerate(view.columns)),
        )
        .drop_nulls([*view.keys, _TIME])
        .filter(pl.col(_TIME) >= now - SETTLED - view.longest)
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
    """Each entity's rows that a lookup can still see, (time, snapshot, features) in order of time.

    These are the newest one that was already known when the oldest lookup under way began, and all
    that come after it.
    """
    time = view.time
    known = pl.col(time) <= now - SETTLED
    frame = (
        as_of_rows(view, pl.DataFrame(rows).lazy())
        .with_columns(micros_of(time).alias(time))
        .filter(True if view.ttl is None else pl.col(time) >= now - SETTLED - view.ttl)
        .filter(~known | (pl.col(time) == pl.col(time).filter(known).max().over(list(view.keys))))
        .sort([*view.keys, time])
        .collect()
    )
    times = frame[time].to_list()
    values = frame.select(one.name for one in view.features).rows()
    for key, low, high in _groups(frame, view.keys):
        yield key, [(times[at], snapshot, list(values[at])) for at in range(low, high)]


def merged_entries(old: Sequence[Entry], new: Sequence[Entry], view: AsOfView, now: int) -> list[Entry]:
    """What is kept of an entity's rows: a new one takes the place of an old one of the same time."""
    by_time = {entry[0]: entry for entry in (*old, *new)}
    times = sorted(by_time)
    known = sum(1 for time in times if time <= now - SETTLED)
    kept = times[max(known - 1, 0) :]
    return [by_time[time] for time in kept if view.ttl is None or time >= now - SETTLED - view.ttl]


def _groups(frame: pl.DataFrame, keys: Sequence[str]) -> Iterator[tuple[Key, int, int]]:
    """Each key of a frame that is sorted by its keys, and from where to where it goes."""
    if frame.is_empty():
        return
    changes = np.zeros(len(frame), dtype=np.bool_)
    changes[0] = True
    for key in keys:
        changes |= (frame[key] != frame[key].shift(1)).fill_null(True).to_numpy()
    starts = np.flatnonzero(changes)
    names = frame.select(keys)[starts].rows()
    for name, (low, high) in zip(names, pairwise([*starts.tolist(), len(frame)]), strict=True):
        yield name, low, high
