"""Forwarding to two topics of a real broker: each event arrives once, whichever process dies or hangs."""

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
from tests.events.clicks import click
from tests.log.topics import set_largest_batch
from tests.until import until

from headrace import event, log
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
    opened = log.open(f"{broker.url}/scratch")
    yield opened
    opened.close()


def with_forward(contract: Contract) -> Contract:
    """The contract on new topics with two log partitions, forwarding valid and invalid events."""
    topic = f"clicks-{new_id()[-12:]}"
    forward = (f"{topic}.valid", f"{topic}.invalid")
    return attrs.evolve(contract, topic=topic, dedup_within=None, partitions=2, forward=forward)


@pytest.fixture
def forwarding_contract(contract: Contract) -> Contract:
    return with_forward(contract)


def ingest_and_forward(contract: Contract, kafka: Log, lake: Lake) -> None:
    sink = ForwardSink(contract, kafka)
    Ingest(contract, kafka, lake, [sink]).run(until_end=True, stop=threading.Event())
    sink.close()


def read_batches(kafka: Log, topic: str) -> list[Batch]:
    offsets = dict.fromkeys(range(kafka.partitions(topic)), 0)
    batches = []
    while len(batch := kafka.read(topic, offsets, 10_000)):
        batches.append(batch)
        offsets = batch.next
    return batches


def source_positions(kafka: Log, topic: str) -> list[bytes]:
    """The positions on the source topic of the events that were forwarded to this topic, sorted."""
    return sorted(
        headers[FORWARDED_FROM] for batch in read_batches(kafka, topic) for headers in batch.headers if headers
    )


def encode_positions(positions: list[tuple[int, int]]) -> list[bytes]:
    return sorted(b"%d:%d" % position for position in positions)


def test_good_events_are_forwarded_unchanged_and_refused_ones_with_the_reason(
    forwarding_contract: Contract, kafka: Log, lake: Lake
) -> None:
    ingest_and_forward(forwarding_contract, kafka, lake)  # creates the missing topics
    assert forwarding_contract.forward is not None
    valid, invalid = forwarding_contract.forward
    spaced = click(7).replace(b": ", b" :   ")  # forwarded as these bytes, not as re-encoded JSON
    good = kafka.append(forwarding_contract.topic, [spaced, click(8)], [b"7", b"8"])
    bad = kafka.append(
        forwarding_contract.topic, [click(9, price=-1), b"\xff", b"x" * 600_000], [b"9", None, None]
    )
    ingest_and_forward(forwarding_contract, kafka, lake)
    assert source_positions(kafka, valid) == encode_positions(good)
    assert source_positions(kafka, invalid) == encode_positions(bad)
    keyed = [
        pair for batch in read_batches(kafka, valid) for pair in zip(batch.keys, batch.values, strict=True)
    ]
    assert dict(keyed) == {b"7": spaced, b"8": click(8)}
    refused = [json.loads(value) for batch in read_batches(kafka, invalid) for value in batch.values]
    by_position = {(event["partition"], event["offset"]): event for event in refused}
    price = by_position[bad[0]]
    assert (price["valid"], price["error_type"], price["error_field"]) == (False, "out_of_range", "price")
    assert (price["error_message"], price["raw"]) == ("Expected `float` > 0.0", click(9, price=-1).decode())
    assert price["processed_at"] >= price["arrived_at"]
    assert (by_position[bad[1]]["raw"], by_position[bad[1]]["raw_encoding"]) == ("/w==", "base64")
    assert (len(by_position[bad[2]]["raw"]), by_position[bad[2]]["raw_bytes"]) == (forwarding._LONGEST, 600_000)

    assert replay(forwarding_contract, lake, kafka, QuarantineSelection(field="price")).events == 1
    ingest_and_forward(forwarding_contract, kafka, lake)
    first = [
        h[FIRST_POSITION]
        for batch in read_batches(kafka, invalid)
        for h in batch.headers
        if h and FIRST_POSITION in h
    ]
    assert first == encode_positions(bad[:1])


def test_a_new_forward_catches_up_also_on_events_that_the_log_has_trimmed(
    forwarding_contract: Contract, kafka: Log, lake: Lake
) -> None:
    kafka.create(forwarding_contract.topic, 2)
    assert forwarding_contract.forward is not None
    old = kafka.append(forwarding_contract.topic, [click(n) for n in range(20)], [b"%d" % n for n in range(20)])
    bad = kafka.append(forwarding_contract.topic, [b"no"])
    Ingest(forwarding_contract, kafka, lake).run(until_end=True, stop=threading.Event())
    kafka.trim(forwarding_contract.topic, kafka.end(forwarding_contract.topic))
    new = kafka.append(
        forwarding_contract.topic, [click(n) for n in range(20, 40)], [b"%d" % n for n in range(20, 40)]
    )
    Ingest(forwarding_contract, kafka, lake).run(until_end=True, stop=threading.Event())
    ingest_and_forward(forwarding_contract, kafka, lake)
    assert source_positions(kafka, forwarding_contract.forward[0]) == encode_positions(old + new)
    assert source_positions(kafka, forwarding_contract.forward[1]) == encode_positions(bad)
    rewritten = {
        (headers or {})[FORWARDED_FROM]: json.loads(value)["user"]
        for batch in read_batches(kafka, forwarding_contract.forward[0])
        for value, headers in zip(batch.values, batch.headers, strict=True)
        if headers and REWRITTEN in headers
    }
    assert rewritten == {b"%d:%d" % position: user for user, position in enumerate(old)}


def test_a_kill_at_any_point_leaves_every_event_forwarded_once(
    contract: Contract, kafka: Log, lake: Lake, tmp_path: Path, broker: Broker
) -> None:
    fork_server = subprocess.Popen(
        [sys.executable, "-m", "tests.events.forking"],
        cwd=Path(__file__).parents[3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert fork_server.stdin is not None
    assert fork_server.stdout is not None
    for point in ("lake.after_commit", "forward.before_commit", "forward.after_commit"):
        forwarding_contract = with_forward(contract)
        assert forwarding_contract.forward is not None
        kafka.create(forwarding_contract.topic, 2)
        values = [click(n) if n % 5 else b"no %d" % n for n in range(500)]
        positions = kafka.append(forwarding_contract.topic, values, [b"%d" % n for n in range(500)])
        order: dict[str, object] = {"folder": str(tmp_path), "fault": f"{point}:2"}
        order["forward"] = [f"{broker.url}/scratch", forwarding_contract.topic]
        fork_server.stdin.write(json.dumps(order) + "\n")
        fork_server.stdin.flush()
        status = int(fork_server.stdout.readline())
        assert os.WIFSIGNALED(status), f"{point} was never reached"
        assert os.WTERMSIG(status) == signal.SIGKILL
        ingest_and_forward(forwarding_contract, kafka, lake)
        valid, invalid = (source_positions(kafka, topic) for topic in forwarding_contract.forward)
        assert sorted(valid + invalid) == encode_positions(positions), point
        assert invalid == encode_positions([position for n, position in enumerate(positions) if n % 5 == 0])
    fork_server.stdin.close()
    assert fork_server.wait(180) == 0
    fork_server.stdout.close()


def test_workers_that_divide_a_topic_forward_each_event_once(
    forwarding_contract: Contract, broker: Broker, kafka: Log, lake: Lake
) -> None:
    kafka.create(forwarding_contract.topic, 2)
    assert forwarding_contract.forward is not None
    values = [click(n) if n % 5 else b"no %d" % n for n in range(2_000)]
    positions = kafka.append(forwarding_contract.topic, values, [b"%d" % n for n in range(2_000)])

    def work() -> None:
        worker_log = log.open(f"{broker.url}/scratch")
        ingest_and_forward(forwarding_contract, worker_log, lake)
        worker_log.close()

    with ThreadPoolExecutor(2) as threads:
        for worker in [threads.submit(work) for _ in range(2)]:
            worker.result(300)
    valid, invalid = (source_positions(kafka, topic) for topic in forwarding_contract.forward)
    assert sorted(valid + invalid) == encode_positions(positions)


@pytest.mark.parametrize("within", [None, timedelta(hours=1)], ids=["divided", "undivided"])
def test_log_partitions_added_meanwhile_are_ingested_and_forwarded(
    forwarding_contract: Contract,
    kafka: Log,
    lake: Lake,
    within: timedelta | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kafka_member, "REFRESH_MS", 200)
    assert isinstance(kafka, KafkaLog)
    assert forwarding_contract.forward is not None
    contract = attrs.evolve(
        forwarding_contract, dedup_within=within, key=forwarding_contract.key if within is None else None
    )
    stop = threading.Event()
    commits: list[Progress] = []
    ingest = Ingest(contract, kafka, lake, [ForwardSink(contract, kafka)])
    keys = [b"%d" % n for n in range(40)]
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(ingest.run, False, stop, IngestHooks(commits.append))
        try:
            first = kafka.append(contract.topic, [click(n) for n in range(40)], keys)
            until(lambda: sum(progress.good for progress in commits) == 40)
            kafka.grow(contract.topic, 5)
            second = kafka.append(contract.topic, [click(n) for n in range(40, 80)], keys)
            assert {partition for partition, _ in second} == set(range(5))
            until(lambda: sum(progress.good for progress in commits) == 80)
        finally:
            stop.set()
        running.result(60)
    assert source_positions(kafka, forwarding_contract.forward[0]) == encode_positions(first + second)
    # A new process finds the positions of all five.
    ingest_and_forward(contract, kafka, lake)
    assert source_positions(kafka, forwarding_contract.forward[0]) == encode_positions(first + second)


def test_a_process_that_hung_cannot_forward_after_another_took_over(
    forwarding_contract: Contract, kafka: Log, lake: Lake
) -> None:
    kafka.create(forwarding_contract.topic, 2)
    assert forwarding_contract.forward is not None

    def send_click() -> tuple[int, int]:
        return kafka.append(forwarding_contract.topic, [click(1)], [b"1"])[0]

    first = send_click()
    hanging_sink = ForwardSink(forwarding_contract, kafka)
    Ingest(forwarding_contract, kafka, lake, [hanging_sink]).run(until_end=True, stop=threading.Event())
    second = send_click()
    ingest_and_forward(forwarding_contract, kafka, lake)  # another process takes over
    partition, third = send_click()
    Ingest(forwarding_contract, kafka, lake).run(until_end=True, stop=threading.Event())
    # When it wakes up, the process that hung tries to forward the last two events.
    late_events, end = read_events(
        forwarding_contract, lake.table(forwarding_contract.table), kafka, partition, second[1], third + 1, 100
    )
    assert late_events.num_rows == 2
    position = LogPosition(
        forwarding_contract.topic, kafka.identity(forwarding_contract.topic), {partition: end}
    )
    with pytest.raises(Conflict, match="another process forwards"):
        hanging_sink.apply(late_events, position)
    assert source_positions(kafka, forwarding_contract.forward[0]) == encode_positions([first, second])
    hanging_sink.apply(late_events, position)  # takes over again, and skips what is forwarded
    assert source_positions(kafka, forwarding_contract.forward[0]) == encode_positions(
        [first, second, (partition, third)]
    )
    hanging_sink.close()


def test_forwarding_from_the_embedded_log_is_refused(contract: Contract, events_log: Log) -> None:
    with pytest.raises(ProjectError, match="needs a log on Kafka"):
        ForwardSink(attrs.evolve(contract, forward=("clicks.valid", "clicks.invalid")), events_log)


@pytest.mark.parametrize("forward", [("headrace.alerts", "bad"), ("good", "headrace.other.releases")])
def test_no_event_is_forwarded_to_a_system_topic(forward: tuple[str, str]) -> None:
    with pytest.raises(ProjectError, match=r"topics that begin with 'headrace\.' are reserved for Headrace"):
        event(topic="clicks", time="at", forward=forward)


def test_a_good_event_too_large_to_forward_is_reported_and_blocks_no_other(
    forwarding_contract: Contract, kafka: Log, broker: Broker, lake: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    kafka.create(forwarding_contract.topic, 2)
    assert forwarding_contract.forward is not None
    valid, invalid = forwarding_contract.forward
    set_largest_batch(broker.url, forwarding_contract.topic, 5_000_000)
    large = click(2, note="x" * 2_000_000)
    positions = kafka.append(
        forwarding_contract.topic, [click(1), large, click(3), click(4, price=-1)], [b"1", b"2", b"3", b"4"]
    )
    ingest_and_forward(forwarding_contract, kafka, lake)
    assert source_positions(kafka, valid) == encode_positions([positions[0], positions[2]])
    assert source_positions(kafka, invalid) == encode_positions([positions[1], positions[3]])
    (report,) = (value for value in json_values(kafka, invalid) if value["error_type"] == "too_large")
    assert (report["valid"], report["raw_bytes"], report["error_field"]) == (True, len(large), None)
    assert report["raw"] == large[: forwarding._LONGEST].decode()
    assert f"{positions[1][0]}:{positions[1][1]}" in caplog.text
    rows = lake.table(forwarding_contract.table).scan().collect()
    assert rows["_valid"].sum() == 3  # the event is good; only the topic it is forwarded to cannot hold it


def test_refused_events_are_cut_to_fit_the_limit_of_their_topic(
    forwarding_contract: Contract, kafka: Log, broker: Broker, lake: Lake
) -> None:
    for topic in (forwarding_contract.topic, *(forwarding_contract.forward or ())):
        kafka.create(topic, 2)
    assert forwarding_contract.forward is not None
    valid, invalid = forwarding_contract.forward
    set_largest_batch(broker.url, forwarding_contract.topic, 5_000_000)
    # Bytes that take six characters each in JSON; a key larger than the limit of the other topic; quotes.
    values = [b"\x00" * 400_000, b"no JSON", b'"' * 600_000, click(9)]
    keys = [b"a", b"k" * 1_200_000, None, b"9"]
    positions = kafka.append(forwarding_contract.topic, values, keys)
    ingest_and_forward(forwarding_contract, kafka, lake)
    assert source_positions(kafka, valid) == encode_positions(positions[3:])
    assert source_positions(kafka, invalid) == encode_positions(positions[:3])
    assert {event["raw_bytes"] for event in json_values(kafka, invalid)} == {400_000, 7, 600_000}


@pytest.mark.parametrize("is_limit_readable", [True, False])
def test_a_limit_lowered_meanwhile_does_not_stop_forwarding(
    forwarding_contract: Contract,
    kafka: Log,
    broker: Broker,
    lake: Lake,
    monkeypatch: pytest.MonkeyPatch,
    is_limit_readable: bool,
) -> None:
    ingest_and_forward(forwarding_contract, kafka, lake)
    assert forwarding_contract.forward is not None
    valid, invalid = forwarding_contract.forward
    if not is_limit_readable:  # as for a user without permission to read a topic's settings
        monkeypatch.setattr(KafkaTopics, "largest_batch", lambda self, topic: None)
    sink = ForwardSink(forwarding_contract, kafka)
    kafka.largest(valid)
    set_largest_batch(broker.url, valid, 20_000)
    set_largest_batch(broker.url, invalid, 20_000)
    values = [
        click(1),
        click(2, note=incompressible_text(30_000)),
        click(3),
        b"no" + incompressible_text(50_000).encode(),
        click(4),
    ]
    positions = kafka.append(forwarding_contract.topic, values, [b"1"] * 5)
    Ingest(forwarding_contract, kafka, lake, [sink]).run(until_end=True, stop=threading.Event())
    sink.close()
    assert source_positions(kafka, valid) == encode_positions([positions[0], positions[2], positions[4]])
    assert source_positions(kafka, invalid) == encode_positions([positions[1], positions[3]])
    assert all(event["raw_bytes"] >= 30_000 > len(event["raw"]) for event in json_values(kafka, invalid))


def json_values(kafka: Log, topic: str) -> list[dict[str, Any]]:
    """The JSON values of a topic, decoded."""
    return [json.loads(value) for batch in read_batches(kafka, topic) for value in batch.values]


def incompressible_text(size: int) -> str:
    """Random hexadecimal text, which compression hardly shrinks."""
    return os.urandom(size // 2).hex()
