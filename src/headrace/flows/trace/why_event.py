"""Why, of one event on the log: where it came in, what became of it then and at every replay since."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Literal

import polars as pl
from msgspec import Struct

from headrace import lake as lakes
from headrace import log as logs
from headrace.config.settings import Settings
from headrace.declare.event import Contract
from headrace.events.contracts.shape import META
from headrace.events.ingest.position import stored_position
from headrace.events.verdicts.judge import FirstPosition, find_first_position
from headrace.kernel.errors import CallError
from headrace.kernel.properties import FIRST_POSITION
from headrace.kernel.time import from_micros
from headrace.lake import LakeTable
from headrace.log import Batch, Log
from headrace.projects.project import load_project
from headrace.serving.topics import system_contracts

__all__ = ["EventWhy", "Verdict", "why_event"]

_PLACE = re.compile(r"(.+)@(\d{1,9}):(\d{1,18})")


class Verdict(Struct, frozen=True):
    """What became of an event once.

    Attributes:
        partition, offset: where it stood on the log then.
        arrived_at: when the log took it.
        admitted: whether it is good; else
        code, field, reason: say why it was refused.
    """

    partition: int
    offset: int
    arrived_at: datetime
    admitted: bool
    code: str | None
    field: str | None
    reason: str | None


class EventWhy(Struct, frozen=True):
    """One event and all that is known of it.

    Attributes:
        topic, partition, offset: as asked.
        state: `admitted`, `refused`, or `waiting` for ingest to judge it.
        first: where it first stood: another place, where the one asked for is a replay.
        arrived_at: when it came in at the place asked for.
        verdicts: of the first arrival and of every replay that was judged, the oldest first.
        values: the contract's fields, where it was admitted.
        raw: its bytes; None where neither the log nor the table has them any more.
        key, headers: what the log has beside them; None where the record is no longer there.
        notes: what a reader should know.
    """

    topic: str
    partition: int
    offset: int
    state: Literal["admitted", "refused", "waiting"]
    first: FirstPosition
    arrived_at: datetime
    verdicts: tuple[Verdict, ...]
    values: dict[str, Any] | None
    raw: bytes | None
    key: bytes | None
    headers: dict[str, bytes] | None
    notes: tuple[str, ...]


def why_event(settings: Settings, place: str) -> EventWhy | None:
    """What became of the event at `TOPIC@PARTITION:OFFSET`; None where `place` is not of this form.

    Raises:
        CallError: the topic has no contract, or there is no event at this place.
        Unavailable: the log or the lake is away.
    """
    form = _PLACE.fullmatch(place)
    if form is None:
        return None
    contract = _contract(settings, form.group(1))
    asked = int(form.group(2)), int(form.group(3))
    lake, log = lakes.open(settings), logs.open(settings.log.url)
    try:
        table = lake.table(contract.table) if lake.table_exists(contract.table) else None
        notes: list[str] = []
        record = _record(log, contract.topic, asked, table, notes)
        rows = [] if table is None else _rows(table, asked, record)
        if not rows and record is None:
            raise _nothing(log, contract.topic, asked)
    finally:
        log.close()
    return _told(contract, asked, rows, record, notes)


def _contract(settings: Settings, topic: str) -> Contract:
    own = {one.topic: one for one in system_contracts()}
    return own[topic] if topic in own else load_project(settings, without=["feast"]).contract(topic)


def _record(log: Log, topic: str, at: FirstPosition, table: LakeTable | None, notes: list[str]) -> Batch | None:
    """The record at this place, if the log still has it and is the one that the table has read."""
    if topic not in log.topics():
        return None
    position = None if table is None else stored_position(table)
    if position is not None and position.log_id != log.identity(topic):
        notes.append("the topic was made again since its table read it: only the table was asked")
        return None
    partition, offset = at
    if not log.start(topic).get(partition, 0) <= offset < log.end(topic).get(partition, 0):
        return None
    batch = log.read(topic, {partition: offset}, 1)
    return batch if batch.offsets.tolist() == [offset] else None


def _rows(table: LakeTable, at: FirstPosition, record: Batch | None) -> list[dict[str, Any]]:
    """The rows of the event's first arrival and of its replays, the oldest first."""
    rows = table.scan()
    found = _at(rows, "_log", at).select(list(META.names)).collect()
    first = at
    if not found.is_empty():
        first = _first(found.row(0, named=True))
    elif record is not None:
        first = find_first_position(record.headers[0]) or at
    every = pl.concat([_at(rows, "_log", first), _at(rows, "_first", first)])
    return every.sort("_arrived_at", "_log_offset").collect().to_dicts()


def _at(rows: pl.LazyFrame, where: str, at: FirstPosition) -> pl.LazyFrame:
    return rows.filter(pl.col(f"{where}_partition") == at[0], pl.col(f"{where}_offset") == at[1])


def _first(row: dict[str, Any]) -> FirstPosition:
    """Where the event of this row first stood."""
    where = "_log" if row["_first_offset"] is None else "_first"
    return row[f"{where}_partition"], row[f"{where}_offset"]


def _nothing(log: Log, topic: str, at: FirstPosition) -> CallError:
    partition, offset = at
    what, where = f"there is no event at {partition}:{offset}", f"topic {topic}"
    if topic not in log.topics():
        return CallError(f"{what}: nothing is on the topic yet", where=where)
    start, end = log.start(topic).get(partition), log.end(topic).get(partition, 0)
    if start is None:
        held = f"the log has {log.partitions(topic)} log partitions, numbered from 0"
    elif start == end:
        held = f"log partition {partition} holds nothing"
    else:
        held = f"log partition {partition} holds {start} to {end - 1}"
    return CallError(what, where=where, remedy=f"Now {held}; the topic's table has no row from there either.")


def _told(
    contract: Contract, asked: FirstPosition, rows: list[dict[str, Any]], record: Batch | None, notes: list[str]
) -> EventWhy:
    verdicts = tuple(map(_verdict, rows))
    mine = next((one for one in verdicts if (one.partition, one.offset) == asked), None)
    admitted = next((row for row in rows if row["_valid"]), None)
    kept = [row["_raw"] for row in rows if row["_raw"] is not None]
    headers = None if record is None else dict(record.headers[0] or {})
    raw = record.values[0] if record is not None else kept[0] if kept else None
    if raw is None:
        notes.append("its bytes are gone: the table keeps those of refused events, and the log was trimmed")
    if mine is not None:
        arrived_at = mine.arrived_at
    else:
        assert record is not None, "it is neither in the table nor on the log"
        arrived_at = from_micros(int(record.arrived_at[0]))
        notes.append("it is on the log, and ingest has not judged it yet")
    return EventWhy(
        topic=contract.topic,
        partition=asked[0],
        offset=asked[1],
        state="waiting" if mine is None else "refused" if admitted is None else "admitted",
        first=find_first_position(headers) or (_first(rows[-1]) if rows else asked),
        arrived_at=arrived_at,
        verdicts=verdicts,
        values=None if admitted is None else {n: v for n, v in admitted.items() if n not in META.names},
        raw=raw,
        key=None if record is None else record.keys[0],
        headers=None if headers is None else {n: v for n, v in headers.items() if n != FIRST_POSITION},
        notes=tuple(notes),
    )


def _verdict(row: dict[str, Any]) -> Verdict:
    return Verdict(
        row["_log_partition"], row["_log_offset"], row["_arrived_at"], row["_valid"], row["_code"],
        row["_field"], row["_reason"],
    )  # fmt: skip
