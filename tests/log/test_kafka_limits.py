"""A real broker's limits: each topic's own, raised and lowered while it is written to."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from confluent_kafka import admin as ck_admin
from services.kafka import Broker, broker
from tests.contract.test_log import configure, everything

from headrace.kernel.errors import TooLarge
from headrace.kernel.ids import new_id
from headrace.log import append_fitting, kafka_limits
from headrace.log.kafka import KafkaLog


@pytest.fixture
def log(broker: Broker) -> Iterator[KafkaLog]:
    one = KafkaLog(broker.url.removeprefix("kafka://"))
    yield one
    one.close()


@pytest.fixture
def topic(log: KafkaLog) -> str:
    name = f"sized-{new_id()}"
    log.create(name)
    return name


def values_of(log: KafkaLog, topic: str) -> list[bytes]:
    found = everything(log, topic)
    return [found[position] for position in sorted(found)]


def test_a_topic_has_the_brokers_limit_until_it_gets_its_own(
    broker: Broker, log: KafkaLog, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = log.largest(topic)
    assert 1_048_588 - 200 < usual < 1_048_588
    large = os.urandom(usual + 1)
    with pytest.raises(TooLarge):
        log.append(topic, [large])
    configure(broker.url, topic, 3_000_000)
    monkeypatch.setattr(kafka_limits, "monotonic", lambda: float("inf"))  # a minute later
    log.append(topic, [large, os.urandom(2_000_000)])
    assert [len(value) for value in values_of(log, topic)] == [usual + 1, 2_000_000]


def test_a_limit_that_is_lowered_meanwhile_refuses_what_is_too_large_now(
    broker: Broker, log: KafkaLog, topic: str
) -> None:
    log.append(topic, [b"before"])
    configure(broker.url, topic, 20_000)
    large = os.urandom(30_000)
    with pytest.raises(TooLarge) as refused:
        log.append(topic, [b"small", large, b"too"])
    assert refused.value.places == (1,)
    assert 19_000 < log.largest(topic) < 20_000
    many = [os.urandom(900) for _ in range(200)]
    log.append(topic, many)
    assert values_of(log, topic) == [b"before", *many]


def test_small_neighbours_go_through_while_a_limit_is_lowered(
    broker: Broker, log: KafkaLog, topic: str
) -> None:
    log.append(topic, [b"before"])
    configure(broker.url, topic, 20_000)
    together = threading.Barrier(8)

    def append(n: int) -> list[tuple[int, int] | None]:
        together.wait(30)
        return append_fitting(log, topic, [os.urandom(30_000) if n % 2 else b"%d" % n])

    with ThreadPoolExecutor(8) as threads:
        positions = [position for (position,) in threads.map(append, range(8))]
    assert [position is None for position in positions] == [n % 2 == 1 for n in range(8)]
    assert sorted(values_of(log, topic)) == [b"0", b"2", b"4", b"6", b"before"]


def test_topics_of_other_limits_do_not_meet(broker: Broker, log: KafkaLog, topic: str) -> None:
    other = f"{topic}-small"
    log.create(other)
    configure(broker.url, topic, 5_000_000)
    configure(broker.url, other, 10_000)
    log.append(topic, [os.urandom(4_000_000), b"a"])
    log.append(other, [os.urandom(5_000) for _ in range(20)])
    assert (len(values_of(log, topic)), len(values_of(log, other))) == (2, 20)


def test_who_may_not_ask_for_the_limit_still_loses_only_what_is_too_large(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with broker_with_guest(tmp_path_factory.mktemp("guest"), monkeypatch) as guest:
        assert 1_048_588 - 200 < guest.largest("events") < 1_048_588  # what is usual: it is not told
        sizes = [900, 30_000, 900, 25_000, 12_000, 900]
        values = [os.urandom(size) for size in sizes]
        positions = append_fitting(guest, "events", values)
        assert [position is None for position in positions] == [False, True, False, True, False, False]
        assert values_of(guest, "events") == [value for value in values if len(value) < 20_000]
        many = [os.urandom(900) for _ in range(100)]
        guest.append("events", many)
        assert values_of(guest, "events")[4:] == many


class broker_with_guest:  # noqa: N801 - a context manager
    """A log of a user who may write to topic `events`, of 20,000 bytes a batch, but not read its settings."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._running = broker(folder, password="secret-" + new_id())
        self._patch = monkeypatch

    def __enter__(self) -> KafkaLog:
        running = self._running.__enter__()
        for name, value in running.environment.items():
            if name.startswith("HEADRACE_KAFKA_"):
                self._patch.setenv(name, value)
        address = running.url.removeprefix("kafka://")
        owner = KafkaLog(address)
        owner.create("events")
        entry = ck_admin.ConfigEntry(
            "max.message.bytes", "20000", incremental_operation=ck_admin.AlterConfigOpType.SET
        )
        of = ck_admin.ConfigResource(
            ck_admin.ConfigResource.Type.TOPIC, "events", incremental_configs=[entry]
        )
        owner._cluster.admin.incremental_alter_configs([of])[of].result(30)
        may = [
            (ck_admin.ResourceType.TOPIC, "events", operation)
            for operation in (
                ck_admin.AclOperation.DESCRIBE, ck_admin.AclOperation.READ, ck_admin.AclOperation.WRITE
            )
        ] + [
            (ck_admin.ResourceType.TRANSACTIONAL_ID, "headrace", ck_admin.AclOperation.WRITE),
            (ck_admin.ResourceType.TRANSACTIONAL_ID, "headrace", ck_admin.AclOperation.DESCRIBE),
            (ck_admin.ResourceType.GROUP, "headrace", ck_admin.AclOperation.READ),
        ]  # fmt: skip
        rules = [
            ck_admin.AclBinding(
                kind, name, ck_admin.ResourcePatternType.PREFIXED, "User:guest", "*", operation,
                ck_admin.AclPermissionType.ALLOW,
            )
            for kind, name, operation in may
        ]  # fmt: skip
        for done in owner._cluster.admin.create_acls(rules).values():
            done.result(30)
        owner.close()
        self._patch.setenv("HEADRACE_KAFKA_SASL_USERNAME", "guest")
        self._guest = KafkaLog(address)
        return self._guest

    def __exit__(self, *_: object) -> None:
        self._guest.close()
        self._running.__exit__(None, None, None)
