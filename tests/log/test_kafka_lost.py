"""A Kafka client that got no answer may have lost the brokers for good: it is replaced."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import ListOffsetsResultInfo
from services.kafka import Broker, broker
from tests.until import until

from headrace.kernel.errors import Unavailable
from headrace.log.kafka import connection as kafka_connection
from headrace.log.kafka import forwarder as kafka_forwarder
from headrace.log.kafka import member as kafka_member
from headrace.log.kafka import reader as kafka_reader
from headrace.log.kafka import topics as kafka_topics
from headrace.log.kafka import writer as kafka_writer
from headrace.log.kafka.log import KafkaLog


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker for one test."""
    with broker(Path(tmp_path_factory.mktemp("lost"))) as running:
        yield running


@pytest.fixture
def log(own: Broker) -> Iterator[KafkaLog]:
    opened = KafkaLog(own.url.removeprefix("kafka://"))
    opened.create("events", 2)
    yield opened
    opened.close()


def kill_broker(own: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills the broker; clients then wait two seconds for an answer."""
    own.stop(hard=True)
    for module in (kafka_connection, kafka_forwarder, kafka_reader, kafka_topics, kafka_writer):
        monkeypatch.setattr(module, "SECONDS", 2.0)


def append(log: KafkaLog) -> bool:
    try:
        log.append("events", [b"a"])
    except Unavailable:
        return False
    return True


def test_log_asks_and_appends_with_new_clients(
    own: Broker, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert append(log)
    admin, writers = log._connection.admin, dict(log._writers._writers)
    kill_broker(own, monkeypatch)
    with pytest.raises(Unavailable):
        log.end("events")
    with pytest.raises(Unavailable):
        log.append("events", [b"b"])
    assert log._connection.admin is not admin
    own.start()
    until(lambda: append(log))
    assert log._writers._writers.keys() == writers.keys()
    assert all(log._writers._writers[limit] is not writer for limit, writer in writers.items())


def test_forwarder_reads_positions_with_a_new_client(
    own: Broker, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwarder = log.forwarder("positions", 1, ["events"])
    assert forwarder.take_over(0) is None
    forwarder.commit(0, [], b"here")
    forwarder._release(0)
    consumer = forwarder._consumer
    kill_broker(own, monkeypatch)
    with pytest.raises(Unavailable):
        forwarder.positions()
    assert forwarder._consumer is not consumer
    own.start()

    def reads_position() -> bool:
        try:
            return forwarder.positions() == {0: b"here"}
        except Unavailable:
            return False

    until(reads_position)
    forwarder.close()


def test_member_joins_again_and_gets_its_share(
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
    kill_broker(own, monkeypatch)
    with caplog.at_level(logging.WARNING):
        until(lambda: not member.partitions() and "joins again" in caplog.text)
    own.start()
    until(lambda: member.partitions() == {0, 1})
    member.close()


def test_an_answer_without_an_offset_is_asked_for_again(log: KafkaLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """As librdkafka answers where the broker dies after the request: -1001 and no error."""
    log.append("events", [b"a"] * 3, [b"k"] * 3)
    offsets = {0: 4, 1: 0}  # three events and the mark of their transaction, which comes a little later
    until(lambda: log.end("events") == offsets)
    answers: list[int] = []

    def read_offset(answer: ListOffsetsResultInfo) -> int:
        answers.append(answer.offset)
        first = len(answers) == 1
        return valid_offset(ListOffsetsResultInfo(-1001, -1, -1) if first else answer)

    valid_offset = kafka_topics._valid_offset
    monkeypatch.setattr(kafka_topics, "_valid_offset", read_offset)
    assert log.end("events") == offsets
    assert len(answers) == 1 + len(offsets)
