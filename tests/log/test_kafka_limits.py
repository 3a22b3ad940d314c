"""The limits of topics on a real broker, raised and lowered while records are appended."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from services.kafka import Broker
from tests.log.topics import read_all, set_largest_batch

from headrace.kernel.errors import TooLarge
from headrace.kernel.ids import new_id
from headrace.log import append_fitting
from headrace.log.kafka import limits as kafka_limits
from headrace.log.kafka import writer as kafka_writer
from headrace.log.kafka.log import KafkaLog


@pytest.fixture
def log(broker: Broker) -> Iterator[KafkaLog]:
    opened = KafkaLog(broker.url.removeprefix("kafka://"))
    yield opened
    opened.close()


@pytest.fixture
def topic(log: KafkaLog) -> str:
    name = f"sized-{new_id()}"
    log.create(name)
    return name


def read_values(log: KafkaLog, topic: str) -> list[bytes]:
    values = read_all(log, topic)
    return [values[position] for position in sorted(values)]


def test_topic_has_the_brokers_limit_until_it_gets_its_own(
    broker: Broker, log: KafkaLog, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = log.largest(topic)
    assert 1_048_588 - 200 < default < 1_048_588
    large = os.urandom(default + 1)
    with pytest.raises(TooLarge):
        log.append(topic, [large])
    set_largest_batch(broker.url, topic, 3_000_000)
    monkeypatch.setattr(kafka_limits, "monotonic", lambda: float("inf"))  # a minute later
    log.append(topic, [large, os.urandom(2_000_000)])
    assert [len(value) for value in read_values(log, topic)] == [default + 1, 2_000_000]


def test_lowered_limit_refuses_records_that_are_too_large_now(
    broker: Broker, log: KafkaLog, topic: str
) -> None:
    log.append(topic, [b"before"])
    set_largest_batch(broker.url, topic, 20_000)
    large = os.urandom(30_000)
    with pytest.raises(TooLarge) as refused:
        log.append(topic, [b"small", large, b"too"])
    assert refused.value.places == (1,)
    assert 19_000 < log.largest(topic) < 20_000
    many = [os.urandom(900) for _ in range(200)]
    log.append(topic, many)
    assert read_values(log, topic) == [b"before", *many]


def test_small_records_of_other_threads_are_appended_while_a_limit_is_lowered(
    broker: Broker, log: KafkaLog, topic: str
) -> None:
    log.append(topic, [b"before"])
    set_largest_batch(broker.url, topic, 20_000)
    together = threading.Barrier(8)

    def append(n: int) -> list[tuple[int, int] | None]:
        together.wait(60)
        return append_fitting(log, topic, [os.urandom(30_000) if n % 2 else b"%d" % n])

    with ThreadPoolExecutor(8) as threads:
        positions = [position for (position,) in threads.map(append, range(8))]
    assert [position is None for position in positions] == [n % 2 == 1 for n in range(8)]
    assert sorted(read_values(log, topic)) == [b"0", b"2", b"4", b"6", b"before"]


@pytest.fixture
def no_time_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing ends because its time is over: neither a commit in the client nor a transaction on the broker."""
    monkeypatch.setattr(kafka_writer, "SECONDS", 3_600.0)
    monkeypatch.setattr(kafka_writer, "TRANSACTION_MS", 900_000)


def append_apart(log: KafkaLog, topic: str, values: list[bytes]) -> list[tuple[int, int]] | Exception:
    """Appends in a thread that a test which fails need not wait for; returns the positions or the error."""
    outcome: list[list[tuple[int, int]] | Exception] = []

    def append() -> None:
        try:
            outcome.append(log.append(topic, values))
        except Exception as error:  # returned
            outcome.append(error)

    thread = threading.Thread(target=append, daemon=True)
    thread.start()
    thread.join(60)
    assert outcome, "the append waits"
    return outcome[0]


@pytest.mark.usefixtures("no_time_limits")
@pytest.mark.parametrize("count", [1, 100_000], ids=["few", "many"])
def test_refused_record_ends_its_transaction_on_the_broker(
    broker: Broker, log: KafkaLog, topic: str, count: int
) -> None:
    """Of many records the first is refused while the others are still given to the client."""
    log.append(topic, [b"before"])
    set_largest_batch(broker.url, topic, 20_000)
    error = append_apart(log, topic, [os.urandom(30_000), *[b"small"] * count])
    assert isinstance(error, TooLarge), error
    assert error.places == (0,)
    assert read_values(log, topic) == [b"before"]  # a reader would wait for an open transaction
    assert isinstance(append_apart(log, topic, [b"after"]), list)
    assert read_values(log, topic) == [b"before", b"after"]


def test_topics_of_different_limits_are_independent(broker: Broker, log: KafkaLog, topic: str) -> None:
    other = f"{topic}-small"
    log.create(other)
    set_largest_batch(broker.url, topic, 5_000_000)
    set_largest_batch(broker.url, other, 10_000)
    log.append(topic, [os.urandom(4_000_000), b"a"])
    log.append(other, [os.urandom(5_000) for _ in range(20)])
    assert (len(read_values(log, topic)), len(read_values(log, other))) == (2, 20)
