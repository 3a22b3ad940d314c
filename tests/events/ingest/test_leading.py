"""Judged events reach a leading sink before their commit, and gather for one commit."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import polars as pl
import pyarrow as pa
import pytest
from tests.events.clicks import click
from tests.until import until

from headrace.declare.event import Contract
from headrace.events.ingest.gathering import Gathering, JudgedBatch
from headrace.events.ingest.ingest import Ingest, IngestHooks, Progress
from headrace.events.ingest.position import read_position
from headrace.events.ingest.reader import ReadSpan
from headrace.events.ingest.sinks import Sink
from headrace.events.quarantine import QuarantineSelection, replay
from headrace.events.verdicts.judge import Judge
from headrace.kernel.position import LogPosition
from headrace.lake import Lake
from headrace.log import Log


class RecordingSink:
    """A leading sink that keeps in memory what it was given, and how far ahead of the table."""

    name = "recording"
    is_raw = False
    may_lead = True

    def __init__(self) -> None:
        self.at: LogPosition | None = None
        self.users: list[int] = []
        self.led: list[tuple[dict[int, int], dict[int, int]]] = []

    def position(self) -> LogPosition | None:
        return self.at

    def apply(self, events: pa.Table, position: LogPosition) -> None:
        at = self.at or LogPosition(position.topic, position.log_id)
        rows = events.select(["_log_partition", "_log_offset", "user"]).to_pylist()
        self.users += [r["user"] for r in rows if not at.covers(r["_log_partition"], r["_log_offset"])]
        self.at = at.advance(position.offsets)

    def lead(self, batches: Sequence[pa.Table], committed: LogPosition, position: LogPosition) -> None:
        self.apply(pa.concat_tables(batches), position)
        self.led.append((committed.offsets, position.offsets))

    def confirm(self, position: LogPosition) -> None:
        """It never compares."""

    def restart(self) -> None:
        """It always leads."""


class RawSink:
    """Keeps the bytes of every event."""

    name = "raw"
    is_raw = True

    def __init__(self) -> None:
        self.at: LogPosition | None = None
        self.raw: list[bytes] = []

    def position(self) -> LogPosition | None:
        return self.at

    def apply(self, events: pa.Table, position: LogPosition) -> None:
        self.raw += events["_raw"].to_pylist()
        self.at = (self.at or LogPosition(position.topic, position.log_id)).advance(position.offsets)


@contextmanager
def running(contract: Contract, log: Log, lake: Lake, *sinks: Sink) -> Iterator[list[Progress]]:
    """Ingests in a thread during the block; yields the commits."""
    commits: list[Progress] = []
    stop = threading.Event()
    ingest = Ingest(contract, log, lake, sinks)
    thread = threading.Thread(target=ingest.run, args=(False, stop, IngestHooks(commits.append)))
    thread.start()
    try:
        yield commits
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


def append_until(log: Log, condition: Callable[[], Any], values: Callable[[int], list[bytes]]) -> list[bytes]:
    """Appends values again and again until the condition holds; returns all of them."""
    appended: list[bytes] = []

    def append_and_check() -> bool:
        more = values(len(appended))
        log.append("clicks", more)
        appended.extend(more)
        return bool(condition())

    until(append_and_check)
    return appended


def test_batches_are_led_at_once_and_committed_together(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    events_log.create("clicks")
    sink, raw = RecordingSink(), RawSink()
    with running(contract, events_log, lake, sink, raw) as commits:
        sent = append_until(
            events_log,
            lambda: len(sink.led) >= len(commits) + 5 and len(commits) >= 3,
            lambda n: [click(n), b"no json", click(n, color="red")],
        )
        until(lambda: commits[-1].position.offsets == {0: len(sent)})
    assert len(commits) < len(sink.led)
    assert all(before[0] <= after[0] for before, after in sink.led)
    rows = lake.table("clicks").scan().sort("_log_offset").collect()
    assert rows["_log_offset"].to_list() == list(range(len(sent)))
    assert raw.raw == sent
    users = list(range(0, len(sent), 3))
    assert rows.filter("_valid")["user"].to_list() == sink.users == users
    refused = sum((commit.refused for commit in commits), Counter[str]())
    assert refused == Counter(not_json=len(users), duplicate=len(users))
    assert sum((commit.extra for commit in commits), Counter[str]()) == Counter(color=len(users))
    position = read_position(lake.table("clicks"))
    assert position is not None
    assert position == sink.at == commits[-1].position
    assert position.offsets == {0: len(sent)}


def test_what_could_be_judged_otherwise_in_other_batches_does_not_lead(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    """Copies in several log partitions are judged by a mark that moves between batches."""
    wide = attrs.evolve(contract, key=None, partitions=2)
    events_log.create("clicks", 2)
    sink = RecordingSink()
    with running(wide, events_log, lake, sink) as commits:
        append_until(events_log, lambda: len(commits) >= 2, lambda n: [click(n), click(n)])
        until(lambda: read_position(lake.table("clicks")).offsets == events_log.end("clicks"))
    assert sink.led == []
    users = lake.table("clicks").scan().filter("_valid").collect()["user"].to_list()
    assert sorted(sink.users) == sorted(users) == sorted(set(users))


def test_replays_do_not_lead(contract: Contract, events_log: Log, lake: Lake) -> None:
    events_log.create("clicks")
    events_log.append("clicks", [click(n, price=-1) for n in range(5)])
    Ingest(contract, events_log, lake).step()
    fixed = attrs.evolve(contract, version=2)
    sink = RecordingSink()
    with running(fixed, events_log, lake, sink) as commits:
        append_until(events_log, lambda: sink.led, lambda n: [click(100 + n)])
        until(lambda: commits and commits[-1].position == sink.at)
        led = len(sink.led)
        replay(fixed, lake, events_log, QuarantineSelection(code="out_of_range"))
        end = events_log.end("clicks")
        until(lambda: commits[-1].position.offsets == end)
        assert len(sink.led) == led
    assert sink.at is not None
    assert sink.at.offsets == end


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_merged_batches_are_what_one_batch_would_be(contract: Contract, events_log: Log, cut: int) -> None:
    events_log.create("clicks")
    values = [click(n // 2, color="red") if n % 3 else b"no" for n in range(9)]
    events_log.append("clicks", values)
    batch = events_log.read("clicks", {0: 0}, 100)
    whole, judge, gathering = Judge(contract).judge(batch), Judge(contract), Gathering(lambda: 0.0)
    ends = [LogPosition("clicks", "one", {0: offset}) for offset in (0, cut, 9)]
    for part, before, after in ((slice(0, cut), *ends[:2]), (slice(cut, 9), *ends[1:])):
        span = ReadSpan(before.offsets, before, after, 1)
        gathering.add(JudgedBatch(judge.judge(batch[part]), batch[part], span))
    assert (len(gathering), gathering.is_due(9, 1.0), gathering.is_due(10, 1.0), gathering.is_due(10, 0.0)) == (
        9,
        True,
        False,
        True,
    )
    batches, first, last = gathering.uncommitted()
    assert (first, last, sum(map(len, batches))) == (ends[0], ends[2], whole.good)
    assert all(again is batch for again, batch in zip(gathering.uncommitted()[0], batches, strict=True))
    verdicts, records, span = gathering.take()
    order = ["_log_partition", "_log_offset"]
    rows, expected = (pl.DataFrame(pl.from_arrow(table)) for table in (verdicts.rows, whole.rows))
    assert rows.sort(order).equals(expected.sort(order))
    assert rows["_valid"].to_list() == sorted(rows["_valid"].to_list(), reverse=True)
    for name in ("good", "refused", "latest", "extra", "watermarks"):
        assert getattr(verdicts, name) == getattr(whole, name)
    assert records is not None
    assert records.values == batch.values
    assert (span.before, span.after, span.start, span.lost) == (ends[0], ends[2], {0: 0}, 2)
    assert len(gathering) == 0
    assert sum(map(len, gathering.uncommitted()[0])) == whole.good  # until the commit
