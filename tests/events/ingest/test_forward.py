"""Forwarding to two topics of a real broker: every event once among them, whatever dies or hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from services.kafka import Broker
from tests.contract.test_log import configure
from tests.events.clicks import click
from tests.until import until

from headrace import log
from headrace.declare.event import Contract
from headrace.events.ingest import forward as forwarding
from headrace.events.ingest.forward import ForwardSink
from headrace.events.ingest.ingest import Ingest, IngestHooks, Progress
from headrace.events.ingest.raw import read_events
from headrace.events.quarantine import QuarantineSelection, replay
from headrace.kernel.errors import Conflict, ProjectError
from headrace.kernel.ids import new_id
from headrace.kernel.position import LogPosition
from headrace.kernel.properties import FIRST_POSITION, FORWARDED_FROM, REWRITTEN
from headrace.lake import Lake
from headrace.log import Batch, Log
from headrace.log.kafka import member as kafka_member
from headrace.log.kafka.log import KafkaLog
from headrace.log.kafka.topics import KafkaTopics


@pytest.fixture
def kafka(broker: Broker) -> Iterator[Log]:
    one = log.open(broker.url)
    yield one
    one.close()


def with_forward(contract: Contract) -> Contract:
    """The contract on topics of its own, with two log partitions."""
    topic = f"clicks-{new_id()[-12:]}"
    forward = (f"{topic}.valid", f"{topic}.invalid")
    return attrs.evolve(contract, topic=topic, dedup_within=None, partitions=2, forward=forward)


@pytest.fixture
def forwarded(contract: Contract) -> Contract:
    return with_forward(contract)


def ingested(contract: Contract, kafka: Log, lake: Lake) -> None:
    sink = ForwardSink(contract, kafka)
    Ingest(contract, kafka, lake, [sink]).run(until_end=True, stop=threading.Event())
    sink.close()


def everything(kafka: Log, topic: str) -> list[Batch]:
    offsets = dict.fromkeys(range(kafka.partitions(topic)), 0)
    found = []
    while len(batch := kafka.read(topic, offsets, 10_000)):
        found.append(batch)
        offsets = batch.next
    return found


def at(kafka: Log, topic: str) -> list[bytes]:
    """Where the events stand on their own topic that were forwarded to this one, sorted."""
    return sorted(
        headers[FORWARDED_FROM] for batch in everything(kafka, topic) for headers in batch.headers if headers
    )


def places(positions: list[tuple[int, int]]) -> list[bytes]:
    return sorted(b"%d:%d" % one for one in positions)


def test_good_events_go_as_they_came_and_refused_ones_with_why(
    forwarded: Contract, kafka: Log, lake: Lake
) -> None:
    ingested(forwarded, kafka, lake)  # it makes what is not there
    assert forwarded.forward is not None
    valid, invalid = forwarded.forward
    spaced = click(7).replace(b": ", b" :   ")  # its own bytes, not the same JSON written anew
    good = kafka.append(forwarded.topic, [spaced, click(8)], [b"7", b"8"])
    bad = kafka.append(forwarded.topic, [click(9, price=-1), b"\xff", b"x" * 600_000], [b"9", None, None])
    ingested(forwarded, kafka, lake)
    assert at(kafka, valid) == places(good)
    assert at(kafka, invalid) == places(bad)
    keyed = [pair for batch in everything(kafka, valid) for pair in zip(batch.keys, batch.values, strict=True)]
    assert dict(keyed) == {b"7": spaced, b"8": click(8)}
    refused = [json.loads(value) for batch in everything(kafka, invalid) for value in batch.values]
    told = {(one["partition"], one["offset"]): one for one in refused}
    price = told[bad[0]]
    assert (price["valid"], price["error_type"], price["error_field"]) == (False, "out_of_range", "price")
    assert (price["error_message"], price["raw"]) == ("Expected `float` > 0.0", click(9, price=-1).decode())
    assert price["processed_at"] >= price["arrived_at"]
    assert (told[bad[1]]["raw"], told[bad[1]]["raw_encoding"]) == ("/w==", "base64")
    assert (len(told[bad[2]]["raw"]), told[bad[2]]["raw_bytes"]) == (forwarding._LONGEST, 600_000)

    assert replay(forwarded, lake, kafka, QuarantineSelection(field="price")).events == 1
    ingested(forwarded, kafka, lake)
    first = [
        h[FIRST_POSITION]
        for batch in everything(kafka, invalid)
        for h in batch.headers
        if h and FIRST_POSITION in h
    ]
    assert first == places(bad[:1])


def test_behind_or_new_it_catches_up_also_on_what_the_log_has_forgotten(
    forwarded: Contract, kafka: Log, lake: Lake
) -> None:
    kafka.create(forwarded.topic, 2)
    assert forwarded.forward is not None
    old = kafka.append(forwarded.topic, [click(n) for n in range(20)], [b"%d" % n for n in range(20)])
    bad = kafka.append(forwarded.topic, [b"no"])
    Ingest(forwarded, kafka, lake).run(until_end=True, stop=threading.Event())
    kafka.trim(forwarded.topic, kafka.end(forwarded.topic))
    new = kafka.append(forwarded.topic, [click(n) for n in range(20, 40)], [b"%d" % n for n in range(20, 40)])
    Ingest(forwarded, kafka, lake).run(until_end=True, stop=threading.Event())
    ingested(forwarded, kafka, lake)
    assert at(kafka, forwarded.forward[0]) == places(old + new)
    assert at(kafka, forwarded.forward[1]) == places(bad)
    again = {
        (headers or {})[FORWARDED_FROM]: json.loads(value)["user"]
        for batch in everything(kafka, forwarded.forward[0])
        for value, headers in zip(batch.values, batch.headers, strict=True)
        if headers and REWRITTEN in headers
    }
    assert again == {b"%d:%d" % place: user for user, place in enumerate(old)}


def test_killed_anywhere_every_event_is_forwarded_once(
    contract: Contract, kafka: Log, lake: Lake, tmp_path: Path, broker: Broker
) -> None:
    killer = subprocess.Popen(
        [sys.executable, "-m", "tests.events.forking"],
        cwd=Path(__file__).parents[3], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert killer.stdin is not None
    assert killer.stdout is not None
    for point in ("lake.after_commit", "forward.before_commit", "forward.after_commit"):
        one = with_forward(contract)
        assert one.forward is not None
        kafka.create(one.topic, 2)
        values = [click(n) if n % 5 else b"no %d" % n for n in range(500)]
        positions = kafka.append(one.topic, values, [b"%d" % n for n in range(500)])
        order: dict[str, object] = {"folder": str(tmp_path), "fault": f"{point}:2"}
        order["forward"] = [broker.url, one.topic]
        killer.stdin.write(json.dumps(order) + "\n")
        killer.stdin.flush()
        status = int(killer.stdout.readline())
        assert os.WIFSIGNALED(status), f"{point} was never reached"
        assert os.WTERMSIG(status) == signal.SIGKILL
        ingested(one, kafka, lake)
        valid, invalid = (at(kafka, topic) for topic in one.forward)
        assert sorted(valid + invalid) == places(positions), point
        assert invalid == places([place for n, place in enumerate(positions) if n % 5 == 0])
    killer.stdin.close()
    assert killer.wait(60) == 0
    killer.stdout.close()


def test_workers_that_divide_a_topic_forward_each_event_once(
    forwarded: Contract, broker: Broker, kafka: Log, lake: Lake
) -> None:
    kafka.create(forwarded.topic, 2)
    assert forwarded.forward is not None
    values = [click(n) if n % 5 else b"no %d" % n for n in range(2_000)]
    positions = kafka.append(forwarded.topic, values, [b"%d" % n for n in range(2_000)])

    def work() -> None:
        own = log.open(broker.url)
        ingested(forwarded, own, lake)
        own.close()

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(work) for _ in range(2)]:
            done.result(120)
    valid, invalid = (at(kafka, topic) for topic in forwarded.forward)
    assert sorted(valid + invalid) == places(positions)


@pytest.mark.parametrize("within", [None, timedelta(hours=1)], ids=["divided", "undivided"])
def test_log_partitions_that_the_topic_gets_meanwhile_are_ingested_and_forwarded(
    forwarded: Contract, kafka: Log, lake: Lake, within: timedelta | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_member, "REFRESH_MS", 200)
    assert isinstance(kafka, KafkaLog)
    assert forwarded.forward is not None
    contract = attrs.evolve(forwarded, dedup_within=within, key=forwarded.key if within is None else None)
    stop = threading.Event()
    told: list[Progress] = []
    ingest = Ingest(contract, kafka, lake, [ForwardSink(contract, kafka)])
    keys = [b"%d" % n for n in range(40)]
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(ingest.run, False, stop, IngestHooks(told.append))
        try:
            first = kafka.append(contract.topic, [click(n) for n in range(40)], keys)
            until(lambda: sum(one.good for one in told) == 40)
            kafka.grow(contract.topic, 5)
            second = kafka.append(contract.topic, [click(n) for n in range(40, 80)], keys)
            assert {partition for partition, _ in second} == set(range(5))
            until(lambda: sum(one.good for one in told) == 80)
        finally:
            stop.set()
        running.result(60)
    assert at(kafka, forwarded.forward[0]) == places(first + second)
    # A new process finds the positions of all five.
    ingested(contract, kafka, lake)
    assert at(kafka, forwarded.forward[0]) == places(first + second)


def test_who_hangs_and_wakes_up_can_forward_nothing_more(forwarded: Contract, kafka: Log, lake: Lake) -> None:
    kafka.create(forwarded.topic, 2)
    assert forwarded.forward is not None

    def sent() -> tuple[int, int]:
        return kafka.append(forwarded.topic, [click(1)], [b"1"])[0]

    first = sent()
    hung = ForwardSink(forwarded, kafka)
    Ingest(forwarded, kafka, lake, [hung]).run(until_end=True, stop=threading.Event())
    second = sent()
    ingested(forwarded, kafka, lake)  # another has taken over
    partition, third = sent()
    Ingest(forwarded, kafka, lake).run(until_end=True, stop=threading.Event())
    # What the first one still holds when it wakes up: the last two events.
    held, end = read_events(forwarded, lake.table(forwarded.table), kafka, partition, second[1], third + 1, 100)
    assert held.num_rows == 2
    position = LogPosition(forwarded.topic, kafka.identity(forwarded.topic), {partition: end})
    with pytest.raises(Conflict, match="another process forwards"):
        hung.apply(held, position)
    assert at(kafka, forwarded.forward[0]) == places([first, second])
    hung.apply(held, position)  # having taken it over again, it passes over what is forwarded
    assert at(kafka, forwarded.forward[0]) == places([first, second, (partition, third)])
    hung.close()


def test_the_embedded_log_has_nobody_to_forward_to(contract: Contract, events_log: Log) -> None:
    with pytest.raises(ProjectError, match="needs a log on Kafka"):
        ForwardSink(attrs.evolve(contract, forward=("clicks.valid", "clicks.invalid")), events_log)


def test_a_good_event_that_is_too_large_is_told_of_and_holds_up_no_other(
    forwarded: Contract, kafka: Log, broker: Broker, lake: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    kafka.create(forwarded.topic, 2)
    assert forwarded.forward is not None
    valid, invalid = forwarded.forward
    configure(broker.url, forwarded.topic, 5_000_000)
    large = click(2, note="x" * 2_000_000)
    positions = kafka.append(
        forwarded.topic, [click(1), large, click(3), click(4, price=-1)], [b"1", b"2", b"3", b"4"]
    )
    ingested(forwarded, kafka, lake)
    assert at(kafka, valid) == places([positions[0], positions[2]])
    assert at(kafka, invalid) == places([positions[1], positions[3]])
    told = {one["offset"]: one for one in refused_of(kafka, invalid) if one["error_type"] == "too_large"}
    (one,) = told.values()
    assert (one["valid"], one["raw_bytes"], one["error_field"]) == (True, len(large), None)
    assert one["raw"] == large[: forwarding._LONGEST].decode()
    assert f"{positions[1][0]}:{positions[1][1]}" in caplog.text
    rows = lake.table(forwarded.table).scan().collect()
    assert rows["_valid"].sum() == 3  # it is a good event: only its way to others was too narrow


def test_what_is_refused_is_cut_until_its_topic_takes_it(
    forwarded: Contract, kafka: Log, broker: Broker, lake: Lake
) -> None:
    for topic in (forwarded.topic, *(forwarded.forward or ())):
        kafka.create(topic, 2)
    assert forwarded.forward is not None
    valid, invalid = forwarded.forward
    configure(broker.url, forwarded.topic, 5_000_000)
    # As JSON each of these bytes takes six; a key that no record of the other topic holds; quotes.
    values = [b"\x00" * 400_000, b"no JSON", b'"' * 600_000, click(9)]
    keys = [b"a", b"k" * 1_200_000, None, b"9"]
    positions = kafka.append(forwarded.topic, values, keys)
    ingested(forwarded, kafka, lake)
    assert at(kafka, valid) == places(positions[3:])
    assert at(kafka, invalid) == places(positions[:3])
    assert {one["raw_bytes"] for one in refused_of(kafka, invalid)} == {400_000, 7, 600_000}


@pytest.mark.parametrize("told", [True, False])
def test_a_limit_that_is_lowered_meanwhile_stops_no_forwarding(
    forwarded: Contract,
    kafka: Log,
    broker: Broker,
    lake: Lake,
    monkeypatch: pytest.MonkeyPatch,
    told: bool,
) -> None:
    ingested(forwarded, kafka, lake)
    assert forwarded.forward is not None
    valid, invalid = forwarded.forward
    if not told:  # as where this user may not ask for a topic's settings
        monkeypatch.setattr(KafkaTopics, "largest_batch", lambda self, topic: None)
    sink = ForwardSink(forwarded, kafka)
    kafka.largest(valid)
    configure(broker.url, valid, 20_000)
    configure(broker.url, invalid, 20_000)
    values = [click(1), click(2, note=noise(30_000)), click(3), b"no" + noise(50_000).encode(), click(4)]
    positions = kafka.append(forwarded.topic, values, [b"1"] * 5)
    Ingest(forwarded, kafka, lake, [sink]).run(until_end=True, stop=threading.Event())
    sink.close()
    assert at(kafka, valid) == places([positions[0], positions[2], positions[4]])
    assert at(kafka, invalid) == places([positions[1], positions[3]])
    assert all(one["raw_bytes"] >= 30_000 > len(one["raw"]) for one in refused_of(kafka, invalid))


def refused_of(kafka: Log, topic: str) -> list[dict[str, Any]]:
    return [json.loads(value) for batch in everything(kafka, topic) for value in batch.values]


def noise(size: int) -> str:
    """Text that no compression makes much smaller."""
    return os.urandom(size // 2).hex()
