"""The real servers that the ports' implementations are tested on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from services.kafka import Broker
from services.kafka import broker as started_broker
from services.server import Missing


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    try:
        with started_broker(Path(tmp_path_factory.mktemp("kafka"))) as running:
            yield running
    except Missing as missing:
        pytest.skip(f"no Kafka broker: {missing}")


@pytest.fixture
def empty_broker(broker: Broker) -> Broker:
    """The broker without topics."""
    admin = AdminClient({"bootstrap.servers": broker.url.removeprefix("kafka://")})

    def topics() -> list[str]:
        return [name for name in admin.list_topics(timeout=30).topics if not name.startswith("__")]

    deadline = monotonic() + 60
    while left := topics():
        assert monotonic() < deadline, f"topics are not deleted: {left}"
        for done in admin.delete_topics(left).values():
            with contextlib.suppress(KafkaException):  # it is being deleted already
                done.result(30)
    return broker


@pytest.fixture(params=["sqlite", "kafka"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty log, of each kind."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path / 'log'}"
    return str(request.getfixturevalue("empty_broker").url)
