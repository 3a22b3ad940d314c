"""A broker with TLS and a password: only clients with the password get in, and nothing shows it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)
from services.kafka import Broker, broker
from tests.docs.blocks import Reader
from tests.events.clicks import Click, click
from tests.events.forking import settings_of
from tests.log.topics import read_all

from headrace import lake, lineage, log
from headrace.config.settings import make_settings
from headrace.declare.event import contract_of
from headrace.events.ingest.forward import ForwardSink
from headrace.events.ingest.ingest import Ingest, IngestHooks, Progress
from headrace.kernel.errors import HeadraceError, ProjectError, Unavailable
from headrace.kernel.run import Dataset, record_with, run
from headrace.log.kafka.connection import KafkaConnection

PASSWORD = "correct-horse-7431"
WRONG = "battery-staple-8812"


@pytest.fixture(scope="module")
def tls_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with broker(Path(tmp_path_factory.mktemp("secured")), password=PASSWORD) as running:
        yield running


@pytest.fixture
def environment(tls_broker: Broker, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in tls_broker.environment.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def read_chain(error: BaseException) -> str:
    """The text of an error and of its causes."""
    text = ""
    while error is not None:
        text += f"{error!r} {error} {error.args}"
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return text


@pytest.mark.usefixtures("environment")
def test_client_with_the_password_appends_reads_and_shares(tls_broker: Broker, tmp_path: Path) -> None:
    opened = log.open(tls_broker.url)
    opened.create("events")
    assert opened.append("events", [b"a"]) == [(0, 0)]
    assert opened.read("events", {0: 0}, 10).values == [b"a"]
    member = opened.join("events", "workers", tmp_path)
    while member.partitions() != {0}:
        pass
    member.close()
    opened.close()


def allow(admin: AdminClient, what: ResourceType, prefix: str, *operations: AclOperation) -> None:
    """Lets user `guest` do these operations on resources whose names begin so."""
    lists = [
        AclBinding(
            what, prefix, ResourcePatternType.PREFIXED, "User:guest", "*", operation, AclPermissionType.ALLOW
        )
        for operation in operations
    ]
    for future in admin.create_acls(lists).values():
        future.result(20)


def test_user_with_the_rights_in_the_guide_ingests_and_forwards(
    tls_broker: Broker, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    contract = contract_of(Click)
    assert contract is not None
    contract = attrs.evolve(contract, topic="given.clicks", forward=("given.good", "given.refused"))
    connection = KafkaConnection(tls_broker.url.removeprefix("kafka://"))
    for topic in (contract.topic, *contract.forward):
        connection.admin.create_topics([NewTopic(topic, 2)])[topic].result(20)
    reading = (AclOperation.DESCRIBE, AclOperation.READ)
    allow(connection.admin, ResourceType.TOPIC, "given.", *reading, AclOperation.WRITE)
    own = (*reading, AclOperation.WRITE, AclOperation.CREATE)
    allow(connection.admin, ResourceType.TOPIC, "headrace.scratch.", *own)
    allow(connection.admin, ResourceType.GROUP, "headrace-", AclOperation.READ)
    allow(
        connection.admin, ResourceType.TRANSACTIONAL_ID, "headrace", AclOperation.DESCRIBE, AclOperation.WRITE
    )
    environment.setenv("HEADRACE_KAFKA_SASL_USERNAME", "guest")
    opened = log.open(f"{tls_broker.url}/scratch")
    ingest = Ingest(contract, opened, lake.open(settings_of(tmp_path)), [ForwardSink(contract, opened)])
    opened.append(contract.topic, [click(1), b"no click", click(2)])
    got: list[Progress] = []
    ingest.run(until_end=True, stop=threading.Event(), hooks=IngestHooks(got.append))
    assert sum(progress.good for progress in got) == 2
    assert sorted(opened.read("given.good", {0: 0, 1: 0}, 10).values) == [click(1), click(2)]
    assert len(opened.read("given.refused", {0: 0, 1: 0}, 10)) == 1
    with pytest.raises(Unavailable, match="may not create topic 'others'") as refused:
        opened.create("others", 3)
    assert "with 3 log partitions" in str(refused.value)
    opened.close()


def test_user_who_may_not_ask_for_the_limit_is_refused_only_large_records(
    tls_broker: Broker, environment: pytest.MonkeyPatch
) -> None:
    connection = KafkaConnection(tls_broker.url.removeprefix("kafka://"))
    topic = NewTopic("bounded.events", 1, config={"max.message.bytes": "20000"})
    connection.admin.create_topics([topic])["bounded.events"].result(20)
    reading = (AclOperation.DESCRIBE, AclOperation.READ)
    allow(connection.admin, ResourceType.TOPIC, "bounded.", *reading, AclOperation.WRITE)
    allow(
        connection.admin, ResourceType.TRANSACTIONAL_ID, "headrace", AclOperation.DESCRIBE, AclOperation.WRITE
    )
    allow(connection.admin, ResourceType.GROUP, "headrace-", AclOperation.READ)
    environment.setenv("HEADRACE_KAFKA_SASL_USERNAME", "guest")
    opened = log.open(tls_broker.url)
    assert 1_048_588 - 200 < opened.largest("bounded.events") < 1_048_588  # the default: this user may not ask
    values = [os.urandom(size) for size in (900, 30_000, 900, 25_000, 12_000, 900)]
    positions = log.append_fitting(opened, "bounded.events", values)
    assert [position is None for position in positions] == [False, True, False, True, False, False]
    many = [os.urandom(900) for _ in range(100)]  # together more than the topic accepts as one batch
    opened.append("bounded.events", many)
    read = read_all(opened, "bounded.events")
    assert [read[place] for place in sorted(read)] == [v for v in values if len(v) < 20_000] + many
    opened.close()


def test_the_page_on_the_log_lets_a_client_in(tls_broker: Broker, tmp_path: Path) -> None:
    project = f'[project]\nname = "shop"\n[profile.prod]\nlog = "{tls_broker.url}"\n'
    project += "".join(f"{name}_port = 0\n" for name in ("predict", "collector", "console"))
    (tmp_path / "headrace.toml").write_text(project)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    authority = tls_broker.environment["HEADRACE_KAFKA_SSL_CA_LOCATION"]
    reader = Reader(
        tmp_path,
        addresses={"/etc/kafka/ca.pem": authority, "SCRAM-SHA-512": "PLAIN"},  # what this broker has
        HEADRACE_KAFKA_SASL_PASSWORD=PASSWORD,
    )
    reader.follow(Path(__file__).parents[2] / "docs" / "guide" / "log.md", "secured")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SASL_PASSWORD", WRONG, "Invalid username or password"),
        ("SSL_CA_LOCATION", None, "certificate verify failed"),
    ],
)
def test_client_that_is_denied_access_learns_why_and_nothing_shows_the_password(
    tls_broker: Broker,
    environment: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    name: str,
    value: str | None,
    message: str,
) -> None:
    if value is None:
        environment.delenv(f"HEADRACE_KAFKA_{name}")
    else:
        environment.setenv(f"HEADRACE_KAFKA_{name}", value)
    settings = make_settings(
        tmp_path, "scratch", "kafka", values={"log": tls_broker.url}, state=tmp_path / "state"
    )
    store = lineage.open(settings)
    with caplog.at_level(logging.DEBUG), record_with(store.recorder()):
        opened = log.open(settings.log.url)
        with (
            pytest.raises(Unavailable, match=message) as raised,
            run("ingest events", [Dataset("topic", "events")]),
        ):
            opened.create("events")
        opened.close()
    store.close()
    files = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
    assert b"ingest events" in files
    shown = (
        read_chain(raised.value) + caplog.text + "".join(capfd.readouterr()) + files.decode(errors="replace")
    )
    for password in (PASSWORD, WRONG):
        assert password not in shown


def test_unknown_setting_is_a_project_error(environment: pytest.MonkeyPatch, tls_broker: Broker) -> None:
    environment.setenv("HEADRACE_KAFKA_SASL_PASSWROD", PASSWORD)
    with pytest.raises(ProjectError, match=r"sasl\.passwrod") as raised:
        log.open(tls_broker.url)
    assert PASSWORD not in read_chain(raised.value)


def test_a_password_in_the_address_is_refused_and_not_read_chain() -> None:
    with pytest.raises(ProjectError, match="must not hold a user or a password") as raised:
        log.open(f"kafka://headrace:{PASSWORD}@broker:9092")
    assert PASSWORD not in read_chain(raised.value)
    assert isinstance(raised.value, HeadraceError)
