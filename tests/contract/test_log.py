"""What every log must do, whoever keeps it."""

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
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from tests.until import until

from headrace import log
from headrace.kernel.errors import CallError, TooLarge
from headrace.kernel.time import now_micros
from headrace.log import Log
from headrace.log.partition import partition_of
from headrace.log.port import append_fitting


@pytest.fixture
def opened(url: str) -> Iterator[Log]:
    one = log.open(url)
    one.create("events")
    yield one
    one.close()


def everything(one: Log, topic: str, limit: int = 1_000) -> dict[tuple[int, int], bytes]:
    """Every record by its position, read in batches of at most `limit`."""
    offsets = dict.fromkeys(range(one.partitions(topic)), 0)
    found: dict[tuple[int, int], bytes] = {}
    while len(batch := one.read(topic, offsets, limit)):
        assert len(batch) <= limit
        for partition, offset, value in zip(
            batch.partitions.tolist(), batch.offsets.tolist(), batch.values, strict=True
        ):
            assert (partition, offset) not in found
            found[partition, offset] = value
        offsets = batch.next
    assert not one.wait(topic, offsets, 0)
    return found


def test_what_was_appended_is_read_in_order_with_all_that_belongs_to_it(opened: Log) -> None:
    before = now_micros()
    positions = opened.append("events", [b"a", b"", b"\x00\xff"], [b"k", None, b""], [None, {"h": b"1"}, None])
    after = now_micros()
    batch = opened.read("events", {0: 0}, 10)
    assert positions == [(0, 0), (0, 1), (0, 2)]
    assert batch.values == [b"a", b"", b"\x00\xff"]
    assert list(batch.keys) == [b"k", None, b""]
    assert [dict(one) if one else None for one in batch.headers] == [None, {"h": b"1"}, None]
    assert batch.partitions.tolist() == [0, 0, 0]
    assert batch.offsets.tolist() == [0, 1, 2]
    assert (batch.partitions.dtype, batch.offsets.dtype, batch.arrived_at.dtype) == (
        np.int32,
        np.int64,
        np.int64,
    )
    assert all(before - 1_000 <= at <= after + 1_000 for at in batch.arrived_at.tolist())
    assert batch.next[0] >= 3
    assert len(opened.read("events", batch.next, 10)) == 0


def test_an_empty_append_writes_nothing(opened: Log) -> None:
    assert opened.append("events", []) == []
    assert opened.end("events") == {0: 0}
    assert len(opened.read("events", {0: 0}, 10)) == 0


@pytest.mark.parametrize("limit", [1, 7, 999, 1_000, 1_001, 10_000])
def test_batches_of_any_size_give_every_record_once(opened: Log, limit: int) -> None:
    sizes = [1, 2, 2_500, 1, 1_000] if limit > 1 else [1, 2, 5]
    number = 0
    for size in sizes:
        opened.append("events", [b"%d" % n for n in range(number, number + size)])
        number += size
    found = everything(opened, "events", limit)
    # Offsets rise, but a log may leave gaps: Kafka's transactions end with a marker that takes one.
    assert [found[position] for position in sorted(found)] == [b"%d" % n for n in range(number)]


def test_reading_begins_anywhere(opened: Log) -> None:
    opened.append("events", [b"%d" % n for n in range(3_000)])
    for offset in (0, 1, 999, 1_000, 1_001, 2_999, 3_000, 4_000):
        batch = opened.read("events", {0: offset}, 2)
        assert batch.values == [b"%d" % n for n in range(offset, min(offset + 2, 3_000))]
        assert batch.next[0] >= max(offset, min(offset + 2, 3_000))
        assert opened.read("events", batch.next, 1).values == [b"%d" % n for n in range(offset + 2, 3_000)][:1]


def test_a_key_has_one_log_partition_and_every_partition_is_read(opened: Log) -> None:
    opened.create("wide", partitions=4)
    assert opened.partitions("wide") == 4
    keys = [b"user %d" % (n % 50) for n in range(500)]
    positions = opened.append("wide", [b"%d" % n for n in range(500)], keys)
    assert [partition for partition, _ in positions] == [partition_of(key, 4) for key in keys]
    found = everything(opened, "wide", 64)
    assert [found[position] for position in positions] == [b"%d" % n for n in range(500)]
    assert {partition for partition, _ in found} == {0, 1, 2, 3}
    some = opened.read("wide", {2: 0}, 1_000)
    assert set(some.partitions.tolist()) == {2}
    assert some.next == {2: opened.end("wide")[2]}


def test_records_without_a_key_stay_together(opened: Log) -> None:
    opened.create("wide", partitions=4)
    positions = opened.append("wide", [b"a", b"b", b"c"])
    assert len({partition for partition, _ in positions}) == 1
    offsets = [offset for _, offset in positions]
    assert offsets == list(range(offsets[0], offsets[0] + 3))


def test_making_a_topic_again_changes_nothing(opened: Log) -> None:
    opened.append("events", [b"a"])
    identity = opened.identity("events")
    opened.create("events", partitions=8)
    assert opened.identity("events") == identity
    assert opened.partitions("events") == 1
    assert everything(opened, "events") == {(0, 0): b"a"}


def test_topics_are_listed_and_differ_in_identity(opened: Log) -> None:
    opened.create("other.topic-1")
    assert opened.topics() == ["events", "other.topic-1"]
    assert opened.identity("events") != opened.identity("other.topic-1")


@pytest.mark.parametrize(
    "call",
    [
        lambda one: one.append("nothing", [b"a"]),
        lambda one: one.read("nothing", {0: 0}, 1),
        lambda one: one.end("nothing"),
        lambda one: one.identity("nothing"),
        lambda one: one.create("../outside"),
        lambda one: one.append("events", [b"a"], [b"k", b"k"]),
    ],
)
def test_a_wrong_call_is_said(opened: Log, call: Callable[[Log], object]) -> None:
    with pytest.raises(CallError):
        call(opened)


def test_waiting_ends_when_another_thread_appends(opened: Log) -> None:
    assert not opened.wait("events", {0: 0}, 0)
    thread = threading.Thread(target=opened.append, args=("events", [b"a"]))
    thread.start()
    assert opened.wait("events", {0: 0}, 30)
    thread.join()
    assert not opened.wait("events", {0: 1}, 0)


def test_threads_that_append_at_once_lose_nothing(opened: Log) -> None:
    opened.create("wide", partitions=3)
    mine: dict[int, list[tuple[int, int]]] = {}

    def append(number: int) -> None:
        mine[number] = [
            position
            for turn in range(20)
            for position in opened.append("wide", [b"%d/%d" % (number, turn)] * 3, [b"%d" % number] * 3)
        ]

    threads = [threading.Thread(target=append, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = everything(opened, "wide")
    assert len(found) == 8 * 20 * 3
    for number, positions in mine.items():
        assert [found[p] for p in positions] == [b"%d/%d" % (number, t) for t in range(20) for _ in range(3)]


def test_processes_that_append_and_read_at_once_lose_nothing(url: str, opened: Log) -> None:
    children = []
    for number in range(3):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                own = log.open(url)  # a child opens its own: connections are not carried over a fork
                for turn in range(50):
                    own.append("events", [b"%d:%d" % (number, turn)] * 2)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    offsets, values = {0: 0}, []
    while len(values) < 300:
        assert opened.wait("events", offsets, 60)
        batch = opened.read("events", offsets, 37)
        values += batch.values
        offsets = batch.next
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert sorted(values) == sorted(b"%d:%d" % (n, t) for n in range(3) for t in range(50) for _ in range(2))
    for number in range(3):
        own = [value for value in values if value.startswith(b"%d:" % number)]
        assert own == [b"%d:%d" % (number, turn) for turn in range(50) for _ in range(2)]


def test_what_is_trimmed_is_passed_over_and_offsets_go_on(opened: Log) -> None:
    opened.append("events", [b"%d" % n for n in range(2_500)])
    opened.trim("events", {0: 1_700})
    start = opened.start("events")[0]
    assert 0 < start <= 1_700
    assert opened.read("events", {0: 0}, 1).offsets.tolist() == [start]
    opened.trim("events", {0: 2_500})
    end = opened.end("events")
    assert end[0] >= 2_500
    assert opened.append("events", [b"next"]) == [(0, end[0])]
    assert opened.read("events", end, 5).values == [b"next"]


def test_what_is_appended_is_there_after_opening_anew(url: str, opened: Log) -> None:
    opened.append("events", [b"a"])
    identity = opened.identity("events")
    opened.close()
    again = log.open(url)
    assert again.identity("events") == identity
    assert everything(again, "events") == {(0, 0): b"a"}
    again.close()


def test_a_topic_that_is_made_again_is_another(url: str, opened: Log) -> None:
    opened.append("events", [b"a"])
    identity = opened.identity("events")
    deleted(url, "events")
    opened.create("events")
    assert opened.identity("events") != identity
    opened.append("events", [b"b"])
    assert list(everything(opened, "events").values()) == [b"b"]


def deleted(url: str, topic: str) -> None:
    """Deletes the topic behind the log's back, as an operator would."""
    kind, _, place = url.partition("://")
    if kind == "sqlite":
        for path in Path(place).glob(f"{topic}.db*"):
            path.unlink()
        return
    admin = AdminClient({"bootstrap.servers": place})
    admin.delete_topics([topic])[topic].result(30)
    deadline = monotonic() + 60
    while topic in admin.list_topics(timeout=30).topics:
        assert monotonic() < deadline


def test_a_topic_keeps_what_its_retention_says(opened: Log) -> None:
    assert opened.retention("events") is None
    opened.create("events", retention=timedelta(days=3))
    opened.create("events")  # by someone who says nothing of it
    assert opened.retention("events") == timedelta(days=3)
    opened.create("short", retention=timedelta(minutes=1))
    assert opened.retention("short") == timedelta(minutes=1)


def test_lag_counts_what_lies_behind_a_position(opened: Log) -> None:
    opened.create("wide", partitions=2)
    assert log.lag(opened, "wide", {}) == {0: 0, 1: 0}
    positions = opened.append("wide", [b"x"] * 100, [b"%d" % n for n in range(100)])
    sizes = Counter(partition for partition, _ in positions)
    counted = log.lag(opened, "wide", {})
    # Kafka counts the marker that ends the transaction too, once that is written.
    assert all(sizes[p] <= counted[p] <= sizes[p] + 1 for p in (0, 1))
    opened.trim("wide", {0: sizes[0]})
    start, end = opened.start("wide"), opened.end("wide")
    assert log.lag(opened, "wide", {1: 10}) == {0: end[0] - start[0], 1: end[1] - 10}
    assert log.lag(opened, "wide", end) == {0: 0, 1: 0}


BOUND = 1_500_000


@pytest.fixture
def bounded(url: str) -> Iterator[Log]:
    """A log whose topic `events` takes records of some 1.5 MB at most."""
    one = log.open(url)
    one.create("events", partitions=2)
    if url.startswith("kafka"):
        configure(url, "events", BOUND)
    else:
        # The file's own connection is told to take no longer rows, as SQLite may be built.
        connection = one._topics.open("events").writer._db  # type: ignore[attr-defined]
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, BOUND)
    yield one
    one.close()


def configure(url: str, topic: str, size: int) -> None:
    """Sets a topic's largest batch, and returns when the broker says so."""
    admin = AdminClient({"bootstrap.servers": url.removeprefix("kafka://")})
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    of = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([of])[of].result(30)

    def size_now() -> str:
        settings = admin.describe_configs([of])[of].result(30)
        return str(settings["max.message.bytes"].value)

    until(lambda: size_now() == str(size))


def test_a_record_of_the_largest_size_is_taken_with_its_key_and_headers(bounded: Log) -> None:
    largest = bounded.largest("events")
    assert BOUND - 200 < largest <= BOUND
    value = os.urandom(largest)  # what no compression makes smaller
    header = {"h" * 20: os.urandom(1_000)}
    rest = largest - 500 - (20 + 1_000 + 10)
    positions = bounded.append("events", [value, value[:rest]], [None, os.urandom(500)], [None, header])
    found = everything(bounded, "events")
    assert [found[position] for position in positions] == [value, value[:rest]]


@pytest.mark.parametrize(
    ("key", "header"), [(b"", None), (b"k", None), (b"", {"a": b""}), (b"k" * 200_000, None)]
)
def test_a_record_that_is_one_byte_larger_is_refused_for_good_and_alone(
    bounded: Log, key: bytes, header: dict[str, bytes] | None
) -> None:
    largest = bounded.largest("events")
    size = max(0, largest + 1 - len(key) - (11 if header else 0))
    values = [b"first", os.urandom(size), b"last"]
    with pytest.raises(TooLarge) as refused:
        bounded.append("events", values, [b"1", key, b"2"], [None, header, None])
    assert (refused.value.places, refused.value.retryable) == ((1,), False)
    assert "events" in str(refused.value)
    assert everything(bounded, "events") == {}
    positions = append_fitting(bounded, "events", values, [b"1", key, b"2"], [None, header, None])
    assert positions[1] is None
    found = everything(bounded, "events")
    assert [found[position] for position in positions if position is not None] == [b"first", b"last"]


def test_many_records_that_are_larger_together_than_one_may_be_are_taken(bounded: Log) -> None:
    values = [os.urandom(40_000) for _ in range(50)] + [b"%d" % n for n in range(3_000)]
    positions = bounded.append("events", values, [b"%d" % (n % 7) for n in range(len(values))])
    found = everything(bounded, "events")
    assert [found[position] for position in positions] == values
