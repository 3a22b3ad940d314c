"""Evidence: what the values of one view were made of, and the same values made from just that again,
by the offline path."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import msgspec
import polars as pl
from msgspec import Struct

from headrace.declare.event import Contract
from headrace.declare.source import Source
from headrace.declare.table import Table
from headrace.events.ingest.position import stored_position
from headrace.features.checks.events_behind import find_events_behind
from headrace.features.online import RowPosition, StreamPosition
from headrace.features.plan import Aggregation, AsOfView, WindowedView
from headrace.features.values.columns import POLARS
from headrace.kernel.errors import CallError, Unavailable
from headrace.kernel.position import LogPosition, SnapshotPosition, decode_position
from headrace.kernel.properties import INPUT
from headrace.kernel.time import from_micros
from headrace.lake import Lake
from headrace.projects.project import Project
from headrace.tables.read import read_input, select_days

__all__ = ["Evidence", "Origin", "RawEvent", "Row", "as_of", "windowed"]


class RawEvent(Struct, frozen=True):
    """One event on the log.

    Attributes:
        partition, offset: where it lies.
        arrived_at, time: when the log took it, and when it happened.
        values: the columns that the view aggregates, as the view saw this event; None: it saw nothing
            of it.
        features: the features that it counts for.
    """

    partition: int
    offset: int
    arrived_at: datetime
    time: datetime
    values: dict[str, Any] | None
    features: tuple[str, ...]


class Origin(Struct, frozen=True):
    """What a row of a table comes from: rows of a topic, or files.

    Attributes:
        kind: `topic` or `file`. name: of the topic or source.
        snapshot: the snapshot of the topic's table that was read; None of files.
        first, last: the UTC days of the topic that were read, both included; None: all.
        events: how many good events of the row's key lie in them; None of files.
        keys: the key columns that the topic's events carry too: those counted are of these.
        digest: of the files.
    """

    kind: str
    name: str
    snapshot: int | None = None
    first: date | None = None
    last: date | None = None
    events: int | None = None
    keys: tuple[str, ...] = ()
    digest: str | None = None


class Row(Struct, frozen=True):
    """The row that an as-of view's values came from.

    Attributes:
        table, snapshot: where it was read. time: from when it holds.
        values: its features.
        origins: what it was made of.
    """

    table: str
    snapshot: int
    time: datetime
    values: dict[str, Any]
    origins: tuple[Origin, ...]


class Evidence(Struct, frozen=True):
    """What a view's values were made of.

    Attributes:
        source: what the values can be computed from again: the topic's events, or rows of the table.
        events: the raw events, the newest first, at most as many as were asked for.
        total: how many there are.
        counted: feature → how many of them it counts.
        row: of an as-of view.
        notes: what a reader should know.
    """

    source: pl.LazyFrame
    events: tuple[RawEvent, ...] = ()
    total: int = 0
    counted: dict[str, int] = {}
    row: Row | None = None
    notes: tuple[str, ...] = ()


def windowed(
    project: Project,
    lake: Lake,
    view: WindowedView,
    entity: Mapping[str, Any],
    at: int,
    position: StreamPosition,
    most: int,
) -> Evidence:
    """The raw events before `position` in the view's longest window at `at` (microseconds).

    Args:
        entity: the plan's join keys.
        most: how many events are listed.

    Raises:
        CallError: the project has no such topic or table any more.
        Unavailable: the events are not in the topic's table yet.
    """
    contract = project.contract(view.topic)
    _check_ingested(contract, stored_position(lake.table(contract.table)), position)
    events, rows, of_event = find_events_behind(project, lake, view, entity, at, position)
    counts = {one.name: _counted(one, view, rows, at) for one in view.aggregations}
    behind = of_event.unique(maintain_order=True)
    return Evidence(
        events.lazy(),
        tuple(
            _event(contract, view, events.row(event, named=True), rows, counts, place)
            for event, place in _row_of_each(of_event, behind.head(most))
        ),
        len(behind),
        {name: int(counted.sum()) for name, counted in counts.items()},
    )


def _counted(one: Aggregation, view: WindowedView, rows: pl.DataFrame, at: int) -> pl.Series:
    """Which rows the aggregation counts at this moment."""
    time = pl.col(view.time)
    counts = pl.col(one.column).is_not_null() & (time < from_micros(at)) & (time >= from_micros(one.begin(at)))
    return rows.select(counts.fill_null(False)).to_series()


def _row_of_each(of_event: pl.Series, events: pl.Series) -> list[tuple[int, int]]:
    """Each event with the place of the last row it became."""
    places = {event: place for place, event in enumerate(of_event.to_list())}
    return [(event, places[event]) for event in events.to_list()]


def _event(
    contract: Contract,
    view: WindowedView,
    raw: Mapping[str, Any],
    rows: pl.DataFrame,
    counts: Mapping[str, pl.Series],
    place: int,
) -> RawEvent:
    columns = list(dict.fromkeys([*view.keys, view.time, *(one.name for one in view.columns)]))
    return RawEvent(
        raw["_log_partition"],
        raw["_log_offset"],
        raw["_arrived_at"],
        raw[contract.time],
        rows.select(columns).row(place, named=True),
        tuple(name for name, counted in counts.items() if counted[place]),
    )


def as_of(
    project: Project,
    lake: Lake,
    view: AsOfView,
    entity: Mapping[str, Any],
    position: RowPosition,
) -> Evidence:
    """The row that the view's values came from.

    Raises:
        CallError: the table is gone.
    """
    if position.snapshot is None:
        pushed = "the row was pushed through Feast, and is in no snapshot of the table"
        note = "the view had not been loaded" if position.time is None else pushed
        return Evidence(_no_rows(view, entity), notes=(note,))
    table = lake.table(view.table)
    notes: tuple[str, ...] = ()
    try:
        frame = table.scan(position.snapshot)
    except CallError:
        frame = table.scan()
        notes = (f"snapshot {position.snapshot} of {view.table} has expired: its newest was read instead",)
    own = frame.filter(*(pl.col(key) == entity[key] for key in view.keys))
    if position.time is None:
        return Evidence(own, notes=(*notes, "there was no row for this entity"))
    time = from_micros(position.time)
    found = own.filter(pl.col(view.time).cast(POLARS["timestamp"]) == time).limit(1).collect()
    if found.is_empty():
        return Evidence(own, notes=(*notes, f"the row of {time} is not there any more"))
    one = found.row(0, named=True)
    declared = project.tables.get(view.table)
    keys = {key: entity[key] for key in view.keys}
    origins = () if declared is None else _origins(project, lake, declared, position.snapshot, keys, one)
    features = {field.name: one[field.name] for field in view.features}
    return Evidence(own, row=Row(view.table, position.snapshot, time, features, origins), notes=notes)


def _check_ingested(contract: Contract, stored: object, position: StreamPosition) -> None:
    for partition, offset in position.offsets.items():
        if not isinstance(stored, LogPosition) or stored.next_offset(partition) < offset:
            raise Unavailable(
                f"the events up to {partition}:{offset} are not in table {contract.table} yet",
                where=f"topic {contract.topic}",
                remedy="headrace ingest --until-end brings them there.",
            )


def _no_rows(view: AsOfView, entity: Mapping[str, Any]) -> pl.LazyFrame:
    """The view's table without a row."""
    types = {key: pl.Int64() if isinstance(entity[key], int) else pl.String() for key in view.keys}
    features = {field.name: POLARS[field.dtype] for field in view.features}
    return pl.LazyFrame(schema={**types, view.time: POLARS["timestamp"], **features})


def _origins(
    project: Project, lake: Lake, table: Table, snapshot: int, keys: Mapping[str, Any], row: Mapping[str, Any]
) -> tuple[Origin, ...]:
    """What one row of a table comes from, through every table between, with the days of each topic."""
    day = table.partition_by
    days: tuple[date, date] | None = None
    if day is not None and row.get(day.column) is not None:
        own = row[day.column]
        own = own.date() if isinstance(own, datetime) else own
        days = own, own
    return tuple(_walk(project, lake, table, snapshot, keys, days))


def _walk(
    project: Project,
    lake: Lake,
    table: Table,
    snapshot: int | None,
    keys: Mapping[str, Any],
    days: tuple[date, date] | None,
) -> list[Origin]:
    day = table.partition_by
    if day is not None and days is not None:
        days = days[0] - day.before, days[1] + day.after
    else:
        days = None
    origins: list[Origin] = []
    for one in project.inputs(table):
        name = one.table if isinstance(one, Contract) else one.name
        version = _read_version(lake, table.name, snapshot, name)
        read = version.snapshot_id if isinstance(version, SnapshotPosition) else None
        if isinstance(one, Source):
            origins.append(Origin("file", one.name, digest=version if isinstance(version, str) else None))
        elif isinstance(one, Table):
            origins.extend(_walk(project, lake, one, read, keys, days if one.partition_by else None))
        else:
            origins.append(_topic(project, lake, one, read, keys, days))
    return origins


def _topic(
    project: Project,
    lake: Lake,
    contract: Contract,
    snapshot: int | None,
    keys: Mapping[str, Any],
    days: tuple[date, date] | None,
) -> Origin:
    first, last = days or (None, None)
    own = [f.name for f in msgspec.structs.fields(contract.struct) if f.name in keys]
    try:
        frame = read_input(project, lake, contract, snapshot)
    except CallError:  # it has expired
        return Origin("topic", contract.topic, snapshot, first, last, None, tuple(own))
    if first is not None and last is not None:
        frame = select_days(frame, contract.time, first, last)
    count = frame.filter(*(pl.col(k) == keys[k] for k in own)).select(pl.len()).collect().item()
    return Origin("topic", contract.topic, snapshot, first, last, count, tuple(own))


def _read_version(lake: Lake, table: str, snapshot: int | None, name: str) -> SnapshotPosition | str | None:
    """Which version of `name` the table's snapshot was made from; None: it is not known any more."""
    made = lake.table(table)
    try:
        summary = {} if snapshot is None else made.snapshot(snapshot).summary
    except CallError:
        summary = {}
    text = summary.get(f"{INPUT}{name}")
    if text is None or not text.startswith("{"):
        return text
    position = decode_position(text)
    return position if isinstance(position, SnapshotPosition) else None
