"""send: the events of a CSV, NDJSON or Parquet file onto a topic, as JSON, as they are.

Nothing is judged here: what is broken in the file is broken on the log, and ingest says so.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from headrace import log
from headrace.config.settings import Settings
from headrace.declare.event import Contract
from headrace.declare.project import load_project
from headrace.events.contracts.times import EPOCHS, has_zone, parse_times
from headrace.events.verdicts.keys import key_name, key_of
from headrace.kernel.errors import CallError
from headrace.kernel.run import Dataset, run
from headrace.kernel.time import now_micros

__all__ = ["SendReport", "send"]

_BATCH = 20_000
_SECOND = 1_000_000

Event = dict[str, Any] | bytes
"""A row by its columns; or the bytes of a line that is no JSON object, which are sent as they are."""


@dataclass(frozen=True)
class SendReport:
    """What was sent.

    Attributes:
        topic: where to.
        events: how many.
        seconds: wall time.
        shifted: by how much times were moved, or None.
    """

    topic: str
    events: int
    seconds: float
    shifted: timedelta | None


def send(
    settings: Settings,
    topic: str,
    file: Path,
    *,
    rate: float | None = None,
    shift_to_now: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> SendReport:
    """Sends every row of the file; each batch is durable on the log before the next is read.

    An empty cell of a CSV file is a field that is not there; its values stay text. A line of it that is
    cut off is sent with the columns that it has.

    Args:
        settings: whose project.
        topic: a topic that has a contract: its key chooses the log partition.
        file: .csv, .ndjson, .jsonl or .parquet.
        rate: at most so many events a second.
        shift_to_now: moves the contract's time of all events by one whole number of seconds, so that
            the last is now; each keeps its spelling. A time that cannot be read stays.
        progress: is told how many have been sent so far.

    Raises:
        CallError: there is no such file or topic, the file is of another kind, or the topic's events are
            not written as JSON.
        Unavailable: the log is away.
    """
    if rate is not None and rate <= 0:
        raise CallError("--rate must be greater than 0", where=f"--rate {rate:g}")
    contract = load_project(settings, without=("feast",)).contract(topic)
    key = key_name(contract)
    if contract.wire != "json":
        raise CallError(
            f"send writes JSON, and the events of {topic!r} are written as {contract.wire}",
            where=str(contract.place),
            remedy="Put them on the log with a producer of that.",
        )
    begun = time.perf_counter()
    shift = _shift(file, contract) if shift_to_now else None
    sent = 0
    size = _BATCH if rate is None else max(1, min(_BATCH, int(rate / 10)))
    with run(f"send {topic}", [Dataset("file", file.name)]) as this:
        opened = log.open(settings.log_url)
        try:
            opened.create(topic, contract.partitions, contract.retention)
            for events in _batches(_events(file), size):
                if shift is not None:
                    _move(events, contract, shift)
                keys = [_key(one, key) for one in events] if key else None
                opened.append(topic, [_bytes(one) for one in events], keys)
                sent += len(events)
                progress(sent)
                if rate is not None:
                    time.sleep(max(0.0, begun + sent / rate - time.perf_counter()))
        finally:
            opened.close()
        this.output(Dataset("topic", topic, facts={"rows": sent}))
    moved = None if shift is None else timedelta(microseconds=shift)
    return SendReport(topic, sent, time.perf_counter() - begun, moved)


_encode = msgspec.json.Encoder().encode
_object = msgspec.json.Decoder(dict[str, Any])


def _bytes(event: Event) -> bytes:
    if isinstance(event, bytes):
        return event
    try:
        return _encode(event)
    except UnicodeEncodeError:  # what was no UTF-8 in the file is none on the log
        return json.dumps(event, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _events(file: Path) -> Iterator[Event]:
    if not file.is_file():
        raise CallError("there is no such file", where=str(file))
    kind = file.suffix.lower()
    if kind == ".csv":
        yield from _csv(file)
    elif kind in (".ndjson", ".jsonl"):
        yield from _ndjson(file)
    elif kind == ".parquet":
        for frame in pl.scan_parquet(file, glob=False).collect_batches(chunk_size=_BATCH):
            yield from frame.to_dicts()
    else:
        raise CallError(
            f"a {kind or 'file without ending'} file cannot be sent",
            where=str(file),
            remedy="Give it as .csv, .ndjson, .jsonl or .parquet.",
        )


def _csv(file: Path) -> Iterator[Event]:
    # Bytes that are no UTF-8 go through as they are: to judge them is the contract's work.
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as opened:
        rows = csv.reader(opened)
        columns = next(rows, None)
        if not columns:
            raise CallError("it has no header", where=str(file), remedy="Its first line names the columns.")
        for row in rows:
            if row:
                yield {name: value for name, value in zip(columns, row, strict=False) if value}


def _ndjson(file: Path) -> Iterator[Event]:
    with file.open("rb") as opened:
        for line in opened:
            text = line.rstrip(b"\r\n")
            if text:
                try:
                    yield _object.decode(text)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    yield text


def _batches(events: Iterator[Event], size: int) -> Iterator[list[Event]]:
    while batch := list(islice(events, size)):
        yield batch


def _key(event: Event, name: str) -> bytes | None:
    return key_of(event.get(name)) if isinstance(event, dict) else None


def _shift(file: Path, contract: Contract) -> int:
    """Microseconds, whole seconds of them, from the file's last time to now."""
    last = None
    for events in _batches(_events(file), _BATCH):
        for spelling in contract.times:
            found = _parsed(_times(events, contract.time), spelling, contract.zone).max()
            if isinstance(found, int):
                last = found if last is None else max(last, found)
    if last is None:
        raise CallError(
            f"no {contract.time!r} in it can be read, so there is nothing to move to now",
            where=str(file),
            remedy=f"The contract's spellings are {', '.join(contract.times)}.",
        )
    return (now_micros() - last) // _SECOND * _SECOND


def _move(events: list[Event], contract: Contract, shift: int) -> None:
    """Moves the time of each event that has one, in its own spelling."""
    texts = _times(events, contract.time)
    for spelling in contract.times:
        moved = _parsed(texts, spelling, contract.zone) + shift
        for at, text in enumerate(_spelt(moved, spelling, contract.zone)):
            event = events[at]
            if text is not None and isinstance(event, dict):
                event[contract.time] = text
                texts[at] = None


def _times(events: Sequence[Event], name: str) -> list[str | int | None]:
    values = [one.get(name) if isinstance(one, dict) else None for one in events]
    return [
        one.isoformat() if isinstance(one, datetime) else one if type(one) in (str, int) else None
        for one in values
    ]


def _parsed(texts: list[Any], spelling: str, zone: str | None) -> pl.Series:
    """Microseconds since 1970, null where a text is not of this spelling."""
    parsed = parse_times(texts, [spelling], zone)
    unread = parsed.null.copy()
    unread[list(parsed.broken)] = True
    return pl.Series(parsed.micros).set(pl.Series(unread), None)


def _spelt(instants: pl.Series, spelling: str, zone: str | None) -> list[Any]:
    if spelling in EPOCHS:
        return (instants // EPOCHS[spelling]).to_list()
    pattern = "%Y-%m-%dT%H:%M:%S%.fZ" if spelling == "rfc3339" else spelling
    times = instants.cast(pl.Datetime("us"))
    if zone is not None and not has_zone(pattern):
        times = times.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    return times.dt.strftime(pattern).to_list()
