"""why TOPIC@P:O: where an event arrived, and what ingest decided about it then and at every replay."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Literal

import polars as pl
from msgspec import Struct

from headrace.declare.event import Contract
from headrace.events.contracts.shape import META
from headrace.events.ingest.position import read_position
from headrace.events.verdicts.judge import FirstPosition, find_first_position
from headrace.kernel.counts import plural
from headrace.kernel.errors import CallError, ProjectError
from headrace.kernel.properties import FIRST_POSITION
from headrace.kernel.time import from_micros
from headrace.lake import LakeTable
from headrace.log import Batch, Log
from headrace.serving.topics import system_contracts
from headrace.tables.read import read_input
from headrace.tables.rowwise import RowwiseCalls
from headrace.workspace import Workspace

__all__ = ["EventOutcome", "EventWhy", "why_event"]

_PLACE = re.compile(r"(.+)@(\d{1,9}):(\d{1,18})")


class EventOutcome(Struct, frozen=True):
    """What ingest decided about an event, at its first arrival or at a replay.

    Attributes:
        partition, offset: the event's position on the log then.
        arrived_at: when it was appended to the log.
        admitted: whether it is good.
        code, field, reason: why it was refused; None if it was admitted.
    """

    partition: int
    offset: int
    arrived_at: datetime
    admitted: bool
    code: str | None
    field: str | None
    reason: str | None


class EventWhy(Struct, frozen=True):
    """One event and what is known about it.

    Attributes:
        topic, partition, offset: the position of the event that was asked for.
        state: `admitted`, `refused`, or `waiting` for ingest.
        first: the position of its first arrival, which differs if the event is a replay.
        arrived_at: when it arrived at the position that was asked for.
        outcomes: the outcomes of the first arrival and of every ingested replay, the oldest first.
        values: the contract's fields; None if it was not admitted.
        raw: its bytes; None if neither the log nor the table has them any more.
        key, headers: those of the record; None if the log no longer has it.
        notes: what a reader should know.
    """

    topic: str
    partition: int
    offset: int
    state: Literal["admitted", "refused", "waiting"]
    first: FirstPosition
    arrived_at: datetime
    outcomes: tuple[EventOutcome, ...]
    values: dict[str, Any] | None
    raw: bytes | None
    key: bytes | None
    headers: dict[str, bytes] | None
    notes: tuple[str, ...]


def why_event(workspace: Workspace, place: str) -> EventWhy | None:
    """What happened to the event at `TOPIC@PARTITION:OFFSET`; None if `place` does not have this form.

    Raises:
        CallError: the topic has no contract, or there is no event at this position.
        Unavailable: the log or the lake cannot be reached.
    """
    match = _PLACE.fullmatch(place)
    if match is None:
        return None
    contract = _find_contract(workspace, match.group(1))
    position = int(match.group(2)), int(match.group(3))
    lake, log = workspace.lake, workspace.log
    table = lake.table(contract.table) if lake.table_exists(contract.table) else None
    notes: list[str] = []
    record = _read_record(log, contract.topic, position, table, notes)
    rows = [] if table is None else _read_rows(table, position, record)
    if not rows and record is None:
        raise _no_event(log, contract.topic, position)
    admitted = next((row for row in rows if row["_valid"]), None)
    if admitted is not None:
        notes += _rowwise_failures(workspace, contract, (admitted["_log_partition"], admitted["_log_offset"]))
    return _explain(contract, position, rows, record, notes)


def _find_contract(workspace: Workspace, topic: str) -> Contract:
    system = {contract.topic: contract for contract in system_contracts()}
    return system[topic] if topic in system else workspace.project.contract(topic)


def _read_record(
    log: Log, topic: str, position: FirstPosition, table: LakeTable | None, notes: list[str]
) -> Batch | None:
    """The record at this position; None if the log no longer has the record that the table has read."""
    if topic not in log.topics():
        return None
    ingested = None if table is None else read_position(table)
    if ingested is not None and ingested.log_id != log.identity(topic):
        notes.append("the topic was created again after its table had read it, so only the table was read")
        return None
    partition, offset = position
    if not log.start(topic).get(partition, 0) <= offset < log.end(topic).get(partition, 0):
        return None
    batch = log.read(topic, {partition: offset}, 1)
    return batch if batch.offsets.tolist() == [offset] else None


def _read_rows(table: LakeTable, position: FirstPosition, record: Batch | None) -> list[dict[str, Any]]:
    """The rows of the event's first arrival and of its replays, the oldest first."""
    rows = table.scan()
    at_position = _filter(rows, "_log", position).select(list(META.names)).collect()
    first = position
    if not at_position.is_empty():
        first = _first_position(at_position.row(0, named=True))
    elif record is not None:
        first = find_first_position(record.headers[0]) or position
    arrivals = pl.concat([_filter(rows, "_log", first), _filter(rows, "_first", first)])
    return arrivals.sort("_arrived_at", "_log_offset").collect().to_dicts()


def _filter(rows: pl.LazyFrame, prefix: str, position: FirstPosition) -> pl.LazyFrame:
    partition, offset = position
    return rows.filter(pl.col(f"{prefix}_partition") == partition, pl.col(f"{prefix}_offset") == offset)


def _first_position(row: dict[str, Any]) -> FirstPosition:
    """The position of the first arrival of this row's event."""
    prefix = "_log" if row["_first_offset"] is None else "_first"
    return row[f"{prefix}_partition"], row[f"{prefix}_offset"]


def _no_event(log: Log, topic: str, position: FirstPosition) -> CallError:
    partition, offset = position
    what, where = f"there is no event at {partition}:{offset}", f"topic {topic}"
    if topic not in log.topics():
        return CallError(f"{what}: the topic has no events yet", where=where)
    start, end = log.start(topic).get(partition), log.end(topic).get(partition, 0)
    if start is None:
        remedy = f"The log has {plural(log.partitions(topic), 'log partition')}, numbered from 0"
    elif start == end:
        remedy = f"Log partition {partition} is empty now"
    else:
        remedy = f"Log partition {partition} has offsets {start} to {end - 1} now"
    return CallError(what, where=where, remedy=f"{remedy}; the topic's table has no row from there either.")


def _rowwise_failures(workspace: Workspace, contract: Contract, position: FirstPosition) -> list[str]:
    """Which rowwise functions fail on the good event at this position, and so make no row of it."""
    project = workspace.project
    tables = [table for table in project.tables.values() if table.rowwise]
    tables = [table for table in tables if project.inputs(table) == [contract]]
    if not tables:
        return []
    event = _filter(read_input(project, workspace.lake, contract), "_log", position).collect()
    notes = []
    for table in tables:
        calls = RowwiseCalls(table, contract, len(event))
        try:
            calls.call(event)
        except ProjectError as error:
            notes.append(error.what)
        notes += [f"table {table.name} has no row of it: {failure.error}" for failure in calls.failed]
    return notes


def _explain(
    contract: Contract,
    position: FirstPosition,
    rows: list[dict[str, Any]],
    record: Batch | None,
    notes: list[str],
) -> EventWhy:
    outcomes = tuple(map(_outcome, rows))
    outcome = next((o for o in outcomes if (o.partition, o.offset) == position), None)
    admitted = next((row for row in rows if row["_valid"]), None)
    stored = [row["_raw"] for row in rows if row["_raw"] is not None]
    headers = None if record is None else dict(record.headers[0] or {})
    raw = record.values[0] if record is not None else stored[0] if stored else None
    if raw is None:
        notes.append(
            "its bytes are lost: the log deleted them, and the table stores only those of refused events"
        )
    if outcome is not None:
        arrived_at = outcome.arrived_at
    else:
        assert record is not None, "it is neither in the table nor on the log"
        arrived_at = from_micros(int(record.arrived_at[0]))
        notes.append("it is on the log, and ingest has not read it yet")
    return EventWhy(
        topic=contract.topic,
        partition=position[0],
        offset=position[1],
        state="waiting" if outcome is None else "refused" if admitted is None else "admitted",
        first=find_first_position(headers) or (_first_position(rows[-1]) if rows else position),
        arrived_at=arrived_at,
        outcomes=outcomes,
        values=None if admitted is None else {n: v for n, v in admitted.items() if n not in META.names},
        raw=raw,
        key=None if record is None else record.keys[0],
        headers=None if headers is None else {n: v for n, v in headers.items() if n != FIRST_POSITION},
        notes=tuple(notes),
    )


def _outcome(row: dict[str, Any]) -> EventOutcome:
    return EventOutcome(
        partition=row["_log_partition"],
        offset=row["_log_offset"],
        arrived_at=row["_arrived_at"],
        admitted=row["_valid"],
        code=row["_code"],
        field=row["_field"],
        reason=row["_reason"],
    )
