"""The contract of the Log port: every implementation passes these tests."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from confluent_kafka.admin import AdminClient
from tests.log.topics import read_all, set_largest_batch
from tests.until import until

from headrace import log
from headrace.flows.project.freshness import topic_status
from headrace.kernel.errors import CallError, TooLarge
from headrace.kernel.time import now_micros
from headrace.log import Log
from headrace.log.partition import partition_of
from headrace.log.port import append_fitting


@pytest.fixture
def events_log(url: str) -> Iterator[Log]:
    opened = log.open(url)
    opened.create("events")
    yield opened
    opened.close()


def test_records_are_read_in_order_with_keys_headers_and_arrival_times(events_log: Log) -> None:
    before = now_micros()
    positions = events_log.append(
        "events", [b"a", b"", b"\x00\xff"], [b"k", None, b""], [None, {"h": b"1"}, None]
    )
    after = now_micros()
    batch = events_log.read("events", {0: 0}, 10)
    assert positions == [(0, 0), (0, 1), (0, 2)]
    assert batch.values == [b"a", b"", b"\x00\xff"]
    assert list(batch.keys) == [b"k", None, b""]
    assert [dict(headers) if headers else None for headers in batch.headers] == [None, {"h": b"1"}, None]
    assert batch.partitions.tolist() == [0, 0, 0]
    assert batch.offsets.tolist() == [0, 1, 2]
    assert (batch.partitions.dtype, batch.offsets.dtype, batch.arrived_at.dtype) == (
        np.int32,
        np.int64,
        np.int64,
    )
    assert all(before - 1_000 <= at <= after + 1_000 for at in batch.arrived_at.tolist())
    assert batch.next[0] >= 3
    assert len(events_log.read("events", batch.next, 10)) == 0


def test_a_dense_log_has_a_record_at_each_offset(events_log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a status says that differences of offsets are the most that there may be."""
    for _ in range(3):
        events_log.append("events", [b"a"])
    end = 3 if events_log.is_dense else 6  # each transaction ends with a marker, which may be seen later
    until(lambda: events_log.end("events") == {0: end})
    with monkeypatch.context() as patch:
        ends = [events_log.end("events")]
        patch.setattr(events_log, "end", lambda topic: ends.pop())  # it is read once
        status = topic_status(events_log, "events", "events", None, None)
    assert (status.events, status.lag, status.is_exact) == (end, end, events_log.is_dense)
    assert status.describe(end) == ("3" if events_log.is_dense else f"≤ {end}")
    assert status.describe(0) == "0"


def test_an_empty_append_writes_nothing(events_log: Log) -> None:
    assert events_log.append("events", []) == []
    assert events_log.end("events") == {0: 0}
    assert len(events_log.read("events", {0: 0}, 10)) == 0


@pytest.mark.parametrize("limit", [1, 7, 999, 1_000, 1_001, 10_000])
def test_batches_of_any_size_return_every_record_once(events_log: Log, limit: int) -> None:
    sizes = [1, 2, 2_500, 1, 1_000] if limit > 1 else [1, 2, 5]
    number = 0
    for size in sizes:
        events_log.append("events", [b"%d" % n for n in range(number, number + size)])
        number += size
    records = read_all(events_log, "events", limit)
    # Offsets rise, but a log may leave gaps: Kafka's transactions end with a marker that takes one.
    assert [records[position] for position in sorted(records)] == [b"%d" % n for n in range(number)]


def test_a_read_can_begin_at_any_offset(events_log: Log) -> None:
    events_log.append("events", [b"%d" % n for n in range(3_000)])
    for offset in (0, 1, 999, 1_000, 1_001, 2_999, 3_000, 4_000):
        batch = events_log.read("events", {0: offset}, 2)
        assert batch.values == [b"%d" % n for n in range(offset, min(offset + 2, 3_000))]
        assert batch.next[0] >= max(offset, min(offset + 2, 3_000))
        assert (
            events_log.read("events", batch.next, 1).values == [b"%d" % n for n in range(offset + 2, 3_000)][:1]
        )


def test_a_key_is_in_one_log_partition_and_every_log_partition_is_read(events_log: Log) -> None:
    events_log.create("wide", partitions=4)
    assert events_log.partitions("wide") == 4
    keys = [b"user %d" % (n % 50) for n in range(500)]
    positions = events_log.append("wide", [b"%d" % n for n in range(500)], keys)
    assert [partition for partition, _ in positions] == [partition_of(key, 4) for key in keys]
    records = read_all(events_log, "wide", 64)
    assert [records[position] for position in positions] == [b"%d" % n for n in range(500)]
    assert {partition for partition, _ in records} == {0, 1, 2, 3}
    batch = events_log.read("wide", {2: 0}, 1_000)
    assert set(batch.partitions.tolist()) == {2}
    assert batch.next == {2: events_log.end("wide")[2]}


def test_records_without_a_key_are_appended_to_one_log_partition(events_log: Log) -> None:
    events_log.create("wide", partitions=4)
    positions = events_log.append("wide", [b"a", b"b", b"c"])
    assert len({partition for partition, _ in positions}) == 1
    offsets = [offset for _, offset in positions]
    assert offsets == list(range(offsets[0], offsets[0] + 3))


def test_creating_an_existing_topic_changes_nothing(events_log: Log) -> None:
    events_log.append("events", [b"a"])
    identity = events_log.identity("events")
    events_log.create("events", partitions=8)
    assert events_log.identity("events") == identity
    assert events_log.partitions("events") == 1
    assert read_all(events_log, "events") == {(0, 0): b"a"}


def test_topics_are_listed_and_have_different_identities(events_log: Log) -> None:
    events_log.create("other.topic-1")
    assert events_log.topics() == ["events", "other.topic-1"]
    assert events_log.identity("events") != events_log.identity("other.topic-1")


@pytest.mark.parametrize(
    "call",
    [
        lambda events_log: events_log.append("nothing", [b"a"]),
        lambda events_log: events_log.read("nothing", {0: 0}, 1),
        lambda events_log: events_log.end("nothing"),
        lambda events_log: events_log.identity("nothing"),
        lambda events_log: events_log.create("../outside"),
        lambda events_log: events_log.append("events", [b"a"], [b"k", b"k"]),
    ],
)
def test_a_wrong_call_is_a_call_error(events_log: Log, call: Callable[[Log], object]) -> None:
    with pytest.raises(CallError):
        call(events_log)


def test_wait_returns_when_another_thread_appends(events_log: Log) -> None:
    assert not events_log.wait("events", {0: 0}, 0)
    thread = threading.Thread(target=events_log.append, args=("events", [b"a"]))
    thread.start()
    assert events_log.wait("events", {0: 0}, 60)
    thread.join()
    assert not events_log.wait("events", {0: 1}, 0)


def test_concurrent_threads_lose_no_record(events_log: Log) -> None:
    events_log.create("wide", partitions=3)
    positions_of_thread: dict[int, list[tuple[int, int]]] = {}

    def append(number: int) -> None:
        positions_of_thread[number] = [
            position
            for turn in range(20)
            for position in events_log.append("wide", [b"%d/%d" % (number, turn)] * 3, [b"%d" % number] * 3)
        ]

    threads = [threading.Thread(target=append, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = read_all(events_log, "wide")
    assert len(records) == 8 * 20 * 3
    for number, positions in positions_of_thread.items():
        assert [records[p] for p in positions] == [b"%d/%d" % (number, t) for t in range(20) for _ in range(3)]


def test_concurrent_processes_lose_no_record(url: str, events_log: Log) -> None:
    children = []
    for number in range(3):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                child_log = log.open(url)  # connections do not survive a fork
                for turn in range(50):
                    child_log.append("events", [b"%d:%d" % (number, turn)] * 2)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    offsets, values = {0: 0}, []
    while len(values) < 300:
        assert events_log.wait("events", offsets, 60)
        batch = events_log.read("events", offsets, 37)
        values += batch.values
        offsets = batch.next
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert sorted(values) == sorted(b"%d:%d" % (n, t) for n in range(3) for t in range(50) for _ in range(2))
    for number in range(3):
        own_values = [value for value in values if value.startswith(b"%d:" % number)]
        assert own_values == [b"%d:%d" % (number, turn) for turn in range(50) for _ in range(2)]


def test_reads_skip_trimmed_records_and_offsets_continue(events_log: Log) -> None:
    events_log.append("events", [b"%d" % n for n in range(2_500)])
    events_log.trim("events", {0: 1_700})
    start = events_log.start("events")[0]
    assert 0 < start <= 1_700
    assert events_log.read("events", {0: 0}, 1).offsets.tolist() == [start]
    events_log.trim("events", {0: 2_500})
    end = events_log.end("events")
    assert end[0] >= 2_500
    assert events_log.append("events", [b"next"]) == [(0, end[0])]
    assert events_log.read("events", end, 5).values == [b"next"]


def test_records_survive_reopening_the_log(url: str, events_log: Log) -> None:
    events_log.append("events", [b"a"])
    identity = events_log.identity("events")
    events_log.close()
    reopened = log.open(url)
    assert reopened.identity("events") == identity
    assert read_all(reopened, "events") == {(0, 0): b"a"}
    reopened.close()


def test_a_recreated_topic_has_another_identity(url: str, events_log: Log) -> None:
    events_log.append("events", [b"a"])
    identity = events_log.identity("events")
    delete_topic(url, "events")
    events_log.create("events")
    assert events_log.identity("events") != identity
    events_log.append("events", [b"b"])
    assert list(read_all(events_log, "events").values()) == [b"b"]


def delete_topic(url: str, topic: str) -> None:
    """Deletes the topic outside the Log port, as an operator would."""
    kind, _, place = url.partition("://")
    if kind == "sqlite":
        for path in Path(place).glob(f"{topic}.db*"):
            path.unlink()
        return
    admin = AdminClient({"bootstrap.servers": place})
    admin.delete_topics([topic])[topic].result(30)
    deadline = monotonic() + 180
    while topic in admin.list_topics(timeout=30).topics:
        assert monotonic() < deadline


def test_a_topic_keeps_its_retention(events_log: Log) -> None:
    assert events_log.retention("events") is None
    events_log.create("events", retention=timedelta(days=3))
    events_log.create("events")  # a call that names no retention
    assert events_log.retention("events") == timedelta(days=3)
    events_log.create("short", retention=timedelta(minutes=1))
    assert events_log.retention("short") == timedelta(minutes=1)


def test_lag_counts_the_records_after_a_position(events_log: Log) -> None:
    events_log.create("wide", partitions=2)
    assert log.lag(events_log, "wide", {}) == {0: 0, 1: 0}
    positions = events_log.append("wide", [b"x"] * 100, [b"%d" % n for n in range(100)])
    sizes = Counter(partition for partition, _ in positions)
    # Kafka also counts the marker that ends the transaction, once it is written.
    marker = 0 if events_log.is_dense else 1
    until(lambda: log.lag(events_log, "wide", {}) == {p: sizes[p] + marker for p in (0, 1)})
    events_log.trim("wide", {0: sizes[0]})
    start, end = events_log.start("wide"), events_log.end("wide")
    assert log.lag(events_log, "wide", {1: 10}) == {0: end[0] - start[0], 1: end[1] - 10}
    assert log.lag(events_log, "wide", end) == {0: 0, 1: 0}


BOUND = 1_500_000


@pytest.fixture
def size_limited_log(url: str) -> Iterator[Log]:
    """A log whose topic `events` accepts records of at most about 1.5 MB."""
    opened = log.open(url)
    opened.create("events", partitions=2)
    if url.startswith("kafka"):
        set_largest_batch(url, "events", BOUND)
    else:
        # The limit that SQLite may be built with, set on the file's connection.
        connection = opened._topics.open("events").writer._db  # type: ignore[attr-defined]
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, BOUND)
    yield opened
    opened.close()


def test_a_record_of_the_largest_size_is_accepted_with_its_key_and_headers(size_limited_log: Log) -> None:
    largest = size_limited_log.largest("events")
    assert BOUND - 200 < largest <= BOUND
    value = os.urandom(largest)  # random bytes, which cannot be compressed
    header = {"h" * 20: os.urandom(1_000)}
    rest = largest - 500 - (20 + 1_000 + 10)
    positions = size_limited_log.append(
        "events", [value, value[:rest]], [None, os.urandom(500)], [None, header]
    )
    records = read_all(size_limited_log, "events")
    assert [records[position] for position in positions] == [value, value[:rest]]


@pytest.mark.parametrize(
    ("key", "header"), [(b"", None), (b"k", None), (b"", {"a": b""}), (b"k" * 200_000, None)]
)
def test_only_the_record_that_is_one_byte_too_large_is_refused_and_not_retryable(
    size_limited_log: Log, key: bytes, header: dict[str, bytes] | None
) -> None:
    largest = size_limited_log.largest("events")
    size = max(0, largest + 1 - len(key) - (11 if header else 0))
    values = [b"first", os.urandom(size), b"last"]
    with pytest.raises(TooLarge) as refused:
        size_limited_log.append("events", values, [b"1", key, b"2"], [None, header, None])
    assert (refused.value.places, refused.value.retryable) == ((1,), False)
    assert "events" in str(refused.value)
    assert read_all(size_limited_log, "events") == {}
    positions = append_fitting(size_limited_log, "events", values, [b"1", key, b"2"], [None, header, None])
    assert positions[1] is None
    records = read_all(size_limited_log, "events")
    assert [records[position] for position in positions if position is not None] == [b"first", b"last"]


def test_records_that_exceed_the_limit_only_together_are_accepted(size_limited_log: Log) -> None:
    values = [os.urandom(40_000) for _ in range(50)] + [b"%d" % n for n in range(3_000)]
    positions = size_limited_log.append("events", values, [b"%d" % (n % 7) for n in range(len(values))])
    records = read_all(size_limited_log, "events")
    assert [records[position] for position in positions] == values
