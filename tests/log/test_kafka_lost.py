"""A client that got no answer may have lost the brokers for good: nobody goes on with it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from services.kafka import Broker, broker
from tests.until import until

from headrace.kernel.errors import Unavailable
from headrace.log.kafka import cluster as kafka_cluster
from headrace.log.kafka import forwarder as kafka_forwarder
from headrace.log.kafka import log as kafka
from headrace.log.kafka import member as kafka_member
from headrace.log.kafka import writer as kafka_writer
from headrace.log.kafka.log import KafkaLog


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker for one test."""
    with broker(Path(tmp_path_factory.mktemp("lost"))) as running:
        yield running


@pytest.fixture
def log(own: Broker) -> Iterator[KafkaLog]:
    one = KafkaLog(own.url.removeprefix("kafka://"))
    one.create("events", 2)
    yield one
    one.close()


def killed(own: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills the broker; its answers are then waited for two seconds."""
    own.stop(hard=True)
    for module in (kafka, kafka_cluster, kafka_forwarder, kafka_writer):
        monkeypatch.setattr(module, "SECONDS", 2.0)


def append(log: KafkaLog) -> bool:
    try:
        log.append("events", [b"a"])
    except Unavailable:
        return False
    return True


def test_a_log_asks_and_appends_by_other_clients(
    own: Broker, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert append(log)
    asking, appending = log._cluster.admin, dict(log._writers)
    killed(own, monkeypatch)
    with pytest.raises(Unavailable):
        log.end("events")
    with pytest.raises(Unavailable):
        log.append("events", [b"b"])
    assert log._cluster.admin is not asking
    own.start()
    until(lambda: append(log))
    assert log._writers.keys() == appending.keys()
    assert all(log._writers[limit] is not writer for limit, writer in appending.items())


def test_a_forwarder_reads_positions_by_another_client(
    own: Broker, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwarder = log.forwarder("positions", 1, ["events"])
    assert forwarder.take(0) is None
    forwarder.commit(0, [], b"here")
    forwarder._give_up(0)
    reading = forwarder._consumer
    killed(own, monkeypatch)
    with pytest.raises(Unavailable):
        forwarder.positions()
    assert forwarder._consumer is not reading
    own.start()

    def told() -> bool:
        try:
            return forwarder.positions() == {0: b"here"}
        except Unavailable:
            return False

    until(told)
    forwarder.close()


def test_a_member_joins_again_and_gets_its_share(
    own: Broker,
    log: KafkaLog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(kafka_member, "SESSION_MS", 1_000)
    monkeypatch.setattr(kafka_member, "IDLE_SECONDS", 0.5)
    member = log.join("events", "workers", tmp_path)
    until(lambda: member.partitions() == {0, 1})
    killed(own, monkeypatch)
    with caplog.at_level(logging.WARNING):
        until(lambda: not member.partitions() and "joins again" in caplog.text)
    own.start()
    until(lambda: member.partitions() == {0, 1})
    member.close()
