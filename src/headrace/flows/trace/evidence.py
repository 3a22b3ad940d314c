"""Evidence: the raw events, or the row of a table and its origins, that a feature view's values came from."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from time import monotonic, sleep
from typing import Any

import msgspec
import polars as pl
from msgspec import Struct

from headrace.declare.event import Contract
from headrace.declare.partitioning import day, days_read, number_of
from headrace.declare.source import Source
from headrace.declare.table import Table
from headrace.events.ingest.position import read_position
from headrace.features.checks.events_behind import find_events_behind
from headrace.features.checks.recompute import find_late_begin, has_lost_events
from headrace.features.offline.columns import check_columns
from headrace.features.offline.point_in_time import reads_changes, states, unique_rows
from headrace.features.online import RowPosition, StreamPosition
from headrace.features.plan import Aggregation, AsOfView, WindowedView
from headrace.features.values.columns import POLARS
from headrace.kernel.errors import CallError, Unavailable
from headrace.kernel.position import LogPosition, SnapshotPosition, decode_position
from headrace.kernel.properties import INPUT
from headrace.kernel.time import from_micros
from headrace.lake import Lake
from headrace.projects.project import Project
from headrace.tables.partitions import select_partitions
from headrace.tables.read import read_input

__all__ = ["Evidence", "Origin", "RawEvent", "Row", "find_events", "find_row"]

_COMMIT_SECONDS = 10.0  # within which the table has what the online store had first, on a busy machine too
_POLL_SECONDS = 0.05


class RawEvent(Struct, frozen=True):
    """One event on the log.

    Attributes:
        partition, offset: its position on the log.
        arrived_at, time: when it was appended to the log, and when it happened.
        values: the columns that the view aggregates, as the view reads this event; None: the view's function
            dropped the event.
        features: the features that count it.
    """

    partition: int
    offset: int
    arrived_at: datetime
    time: datetime
    values: dict[str, Any] | None
    features: tuple[str, ...]


class Origin(Struct, frozen=True):
    """What a row of a table was made from: events of a topic, or files.

    A table is made a day at a time, so an origin is the input of the row's day, not of the row alone.

    Attributes:
        kind: `topic` or `file`.
        name: the topic or the source.
        snapshot: the snapshot of the topic's table that was read; None for files.
        first, last: the UTC days of the topic that were read, both included; None: all.
        events: how many good events with the row's key are in these days; None for files.
        keys: the key columns that the topic's events have as well, by which they are counted.
        digest: the digest of the files; None for a topic.
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
        table, snapshot: the table and the snapshot of the row.
        time: the time from which it is valid.
        values: its features.
        origins: what it was made from.
    """

    table: str
    snapshot: int
    time: datetime
    values: dict[str, Any]
    origins: tuple[Origin, ...]


class Evidence(Struct, frozen=True):
    """What a view's values were computed from.

    Attributes:
        source: the data to recompute them from: the topic's events, or rows of the table.
        events: the newest raw events, the newest first, up to the caller's limit.
        total: how many raw events there are.
        counts: feature → how many raw events it counts.
        row: the row of an as-of view.
        notes: what a reader should know.
    """

    source: pl.LazyFrame
    events: tuple[RawEvent, ...] = ()
    total: int = 0
    counts: dict[str, int] = {}
    row: Row | None = None
    notes: tuple[str, ...] = ()


def find_events(
    project: Project,
    lake: Lake,
    view: WindowedView,
    entity: Mapping[str, Any],
    at: int,
    position: StreamPosition,
    limit: int,
) -> Evidence:
    """The raw events before `position` in the view's longest window at `at` (microseconds).

    Args:
        entity: the plan's join keys.
        limit: how many events are listed at most.

    Raises:
        CallError: the project has no such topic or table any more, or the table has lost the events.
        Unavailable: the events are not in the topic's table yet.
    """
    contract = project.contract(view.topic)
    if has_lost_events(position.offsets, at, find_late_begin(lake.table(contract.table), at)):
        raise CallError(
            f"the events before {from_micros(at).isoformat()} are no longer in table {contract.table}, which"
            " begins later",
            where=f"topic {contract.topic}",
        )
    _await_ingested(contract, lake, position)
    events, rows, event_of_row = find_events_behind(project, lake, view, entity, at, position)
    counts = {aggregation.name: _is_counted(aggregation, view, rows, at) for aggregation in view.aggregations}
    distinct = event_of_row.unique(maintain_order=True)
    return Evidence(
        events.lazy(),
        tuple(
            _event(contract, view, events.row(event, named=True), rows, counts, place)
            for event, place in _last_rows(event_of_row, distinct.head(limit))
        ),
        len(distinct),
        {name: int(is_counted.sum()) for name, is_counted in counts.items()},
    )


def _is_counted(aggregation: Aggregation, view: WindowedView, rows: pl.DataFrame, at: int) -> pl.Series:
    """For each row, whether the aggregation counts it at this moment."""
    begin, end = from_micros(aggregation.begin(at)), from_micros(aggregation.end(at))
    is_inside = pl.col(view.time).is_between(begin, end, closed="left")
    is_counted = pl.col(aggregation.column).is_not_null() & is_inside
    return rows.select(is_counted.fill_null(False)).to_series()


def _last_rows(event_of_row: pl.Series, events: pl.Series) -> list[tuple[int, int]]:
    """Each event, and the index of the last row that was made from it."""
    places = {event: place for place, event in enumerate(event_of_row.to_list())}
    return [(event, places[event]) for event in events.to_list()]


def _event(
    contract: Contract,
    view: WindowedView,
    raw: Mapping[str, Any],
    rows: pl.DataFrame,
    counts: Mapping[str, pl.Series],
    place: int,
) -> RawEvent:
    columns = list(dict.fromkeys([*view.keys, view.time, *(column.name for column in view.columns)]))
    return RawEvent(
        raw["_log_partition"],
        raw["_log_offset"],
        raw["_arrived_at"],
        raw[contract.time],
        rows.select(columns).row(place, named=True),
        tuple(name for name, is_counted in counts.items() if is_counted[place]),
    )


def find_row(
    project: Project,
    lake: Lake,
    view: AsOfView,
    entity: Mapping[str, Any],
    position: RowPosition,
) -> Evidence:
    """The row that the view's values came from.

    Raises:
        CallError: the table no longer exists.
        ProjectError: the snapshot has expired, and the newest one has other columns.
    """
    if position.snapshot is None:
        pushed = "the row was pushed through Feast, so no snapshot of the table has it"
        note = "the view had not been loaded" if position.time is None else pushed
        return Evidence(_empty_frame(view, entity), notes=(note,))
    table = lake.table(view.table)
    notes: tuple[str, ...] = ()
    try:
        frame = table.scan(position.snapshot)
    except CallError:
        frame = table.scan()
        notes = (f"snapshot {position.snapshot} of {view.table} has expired: the newest one was read instead",)
    dtypes = {key: "int64" if isinstance(entity[key], int) else "string" for key in view.keys}
    check_columns(view, states(view, frame).collect_schema(), dtypes)
    if not reads_changes(view, frame):  # a truncate or a snapshot removes the rows of other keys, too
        frame = frame.filter(*(pl.col(view.column(key)) == entity[key] for key in view.keys))
    if position.time is None:
        return Evidence(frame, notes=(*notes, "there was no row for this entity"))
    time = from_micros(position.time)
    rows = states(view, frame).filter(*(pl.col(key) == entity[key] for key in view.keys))
    rows = rows.filter(pl.col(view.time).cast(POLARS["timestamp"]) == time)
    counted = unique_rows(view, rows).select(field.name for field in view.features).collect()
    if counted.is_empty():
        return Evidence(frame, notes=(*notes, f"the row of {time} no longer exists"))
    declared = project.tables.get(view.table)
    keys = {view.column(key): entity[key] for key in view.keys}
    origins = () if declared is None else _origins(project, lake, declared, position.snapshot, keys, view, rows)
    row = Row(view.table, position.snapshot, time, counted.row(0, named=True), origins)
    return Evidence(frame, row=row, notes=notes)


def _await_ingested(contract: Contract, lake: Lake, position: StreamPosition) -> None:
    """Waits a moment for the table's commit: the online store may be ahead of it."""
    deadline = monotonic() + _COMMIT_SECONDS
    while True:
        try:
            return _check_ingested(contract, read_position(lake.table(contract.table)), position)
        except Unavailable:
            if monotonic() > deadline:
                raise
        sleep(_POLL_SECONDS)


def _check_ingested(contract: Contract, stored: object, position: StreamPosition) -> None:
    for partition, offset in position.offsets.items():
        if not isinstance(stored, LogPosition) or stored.next_offset(partition) < offset:
            raise Unavailable(
                f"the events up to {partition}:{offset} are not in table {contract.table} yet",
                where=f"topic {contract.topic}",
                remedy="Ingest them: headrace ingest --until-end",
            )


def _empty_frame(view: AsOfView, entity: Mapping[str, Any]) -> pl.LazyFrame:
    """A frame with the columns of the view's table, without rows."""
    types = {key: pl.Int64() if isinstance(entity[key], int) else pl.String() for key in view.keys}
    features = {field.name: POLARS[field.dtype] for field in view.features}
    return pl.LazyFrame(schema={**types, view.time: POLARS["timestamp"], **features})


def _origins(
    project: Project,
    lake: Lake,
    table: Table,
    snapshot: int,
    keys: Mapping[str, Any],
    view: AsOfView,
    rows: pl.LazyFrame,
) -> tuple[Origin, ...]:
    """What the rows of one key and time, which have the view's names, were made from: the topics and files,
    through all tables in between, with days."""
    partitioning = table.partition_by
    days: tuple[date, date] | None = None
    if partitioning is not None and partitioning.is_time:
        column = pl.col(view.field_mapping.get(partitioning.column, partitioning.column)).cast(pl.Date)
        first, last = rows.select(column.min().alias("first"), column.max().alias("last")).collect().row(0)
        days = None if first is None else (first, last)
    return tuple(_find_origins(project, lake, table, snapshot, keys, days))


def _find_origins(
    project: Project,
    lake: Lake,
    table: Table,
    snapshot: int | None,
    keys: Mapping[str, Any],
    days: tuple[date, date] | None,
) -> list[Origin]:
    partitioning = table.partition_by
    days = None if partitioning is None or days is None else days_read(partitioning, *days)
    origins: list[Origin] = []
    for declared in project.inputs(table):
        name = declared.table if isinstance(declared, Contract) else declared.name
        version = _input_version(lake, table.name, snapshot, name)
        read = version.snapshot_id if isinstance(version, SnapshotPosition) else None
        if isinstance(declared, Source):
            digest = version if isinstance(version, str) else None
            origins.append(Origin("file", declared.name, digest=digest))
        elif isinstance(declared, Table):
            input_days = days if declared.partition_by else None
            origins.extend(_find_origins(project, lake, declared, read, keys, input_days))
        else:
            origins.append(_topic_origin(project, lake, declared, read, keys, days))
    return origins


def _topic_origin(
    project: Project,
    lake: Lake,
    contract: Contract,
    snapshot: int | None,
    keys: Mapping[str, Any],
    days: tuple[date, date] | None,
) -> Origin:
    first, last = days or (None, None)
    shared = [field.name for field in msgspec.structs.fields(contract.struct) if field.name in keys]
    try:
        frame = read_input(project, lake, contract, snapshot)
    except CallError:  # the snapshot has expired
        return Origin("topic", contract.topic, snapshot, first, last, None, tuple(shared))
    if first is not None and last is not None:
        numbers = number_of("day", first), number_of("day", last)
        frame = select_partitions(frame, day(contract.time), contract.time, *numbers)
    count = frame.filter(*(pl.col(key) == keys[key] for key in shared)).select(pl.len()).collect().item()
    return Origin("topic", contract.topic, snapshot, first, last, count, tuple(shared))


def _input_version(lake: Lake, table: str, snapshot: int | None, name: str) -> SnapshotPosition | str | None:
    """The version of the input `name` that the table's snapshot was made from; None if it is unknown."""
    try:
        summary = {} if snapshot is None else lake.table(table).snapshot(snapshot).summary
    except CallError:
        summary = {}
    text = summary.get(f"{INPUT}{name}")
    if text is None or not text.startswith("{"):
        return text
    position = decode_position(text)
    return position if isinstance(position, SnapshotPosition) else None
