"""Finds the events behind a windowed view's values, and the rows that its function makes from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import polars as pl

from headrace.features.offline.rowwise import rows_of
from headrace.features.online import StreamPosition
from headrace.features.plan import WindowedView
from headrace.kernel.time import from_micros
from headrace.lake import Lake
from headrace.projects.project import Project
from headrace.tables.read import read_input

__all__ = ["EventsBehind", "find_events_behind"]


class EventsBehind(NamedTuple):
    """Events of an entity before a position, in the longest of the view's windows.

    Attributes:
        events: the contract's fields, `_log_partition`, `_log_offset`, `_arrived_at`; the newest first. If
            events do not carry every key, those of other entities are included.
        rows: the entity's rows of the view's table that come from the events: keys, time and columns.
        event_of_row: for each row, the index of its event in `events`, Int64.
    """

    events: pl.DataFrame
    rows: pl.DataFrame
    event_of_row: pl.Series


def find_events_behind(
    project: Project,
    lake: Lake,
    view: WindowedView,
    entity: Mapping[str, Any],
    at: int,
    position: StreamPosition,
) -> EventsBehind:
    """Finds the events that a windowed view's values were computed from.

    A rowwise function must not change the keys and the time that its event carries.

    Args:
        project: the project that declares the topic and the rowwise tables of the view.
        lake: the lake with the topic's table.
        view: the view.
        entity: its join keys.
        at: the moment, microseconds.
        position: the position of the values.

    Raises:
        CallError: the project no longer has the topic, or the topic has no table.
    """
    contract = project.contract(view.topic)
    carried = {field.name for field in msgspec.structs.fields(contract.struct)}
    before = [
        (pl.col("_log_partition") == partition) & (pl.col("_log_offset") < offset)
        for partition, offset in position.offsets.items()
    ]
    time, moment = pl.col(contract.time), from_micros(at)
    events = (
        read_input(project, lake, contract)
        .filter(pl.any_horizontal(before) if before else pl.lit(False))
        .filter(time < moment, time >= from_micros(view.earliest(at)))
        .filter(*(pl.col(key) == entity[key] for key in view.keys if key in carried))
        .sort(contract.time, "_log_partition", "_log_offset", descending=True)
        .collect()
    )
    rows, event_of_row = _rows_with_events(project, view, events)
    is_of_entity = rows.select(
        pl.all_horizontal(pl.col(key) == entity[key] for key in view.keys).fill_null(False)
    ).to_series()
    return EventsBehind(events, rows.filter(is_of_entity), event_of_row.filter(is_of_entity))


def _rows_with_events(
    project: Project, view: WindowedView, events: pl.DataFrame
) -> tuple[pl.DataFrame, pl.Series]:
    """The rows of the view's table that come from the events, and the index of each row's event.

    A rowwise function may drop, multiply and reorder rows, so it is called for each event alone.
    """
    rows_from = rows_of(project, [view])
    if view.rowwise is None:
        rows, _ = rows_from(events.lazy())
        return rows, pl.Series("event", range(events.height), dtype=pl.Int64)
    frames = [rows_from(events[index].lazy()).rows for index in range(events.height)]
    indexes = [index for index, rows in enumerate(frames) for _ in range(rows.height)]
    empty, _ = rows_from(events[:0].lazy())
    return pl.concat([empty, *frames]), pl.Series("event", indexes, dtype=pl.Int64)
