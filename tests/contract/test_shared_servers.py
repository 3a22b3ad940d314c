"""Two projects on one server, which declare the same names on a profile of the same name, keep apart.

Online stores: test_online_servers. MLflow: tests/registry. Feast's registry: tests/features/feast. A warehouse:
tests/tables/test_warehouse. Ray: test_remote_ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import attrs
import pyarrow as pa
import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from services.catalog import Catalog
from services.kafka import Broker
from services.s3 import Store
from tests.events.clicks import Click, click
from tests.log.topics import read_all
from tests.until import until

from headrace import lake, log
from headrace.alerts.record import TOPIC as ALERTS
from headrace.config.settings import Settings, make_settings
from headrace.declare.event import contract_of
from headrace.events.ingest.forward import ForwardSink
from headrace.events.ingest.share import TopicShare
from headrace.kernel.errors import CallError, Refused
from headrace.kernel.ids import new_id
from headrace.kernel.run import Dataset
from headrace.lineage.names import Names
from headrace.log import Log
from headrace.log.kafka.topics import KafkaTopics
from headrace.serving import release
from headrace.serving.release import TOPIC as RELEASES
from headrace.serving.release import Arm
from headrace.serving.topics import system_contracts

SYSTEM = sorted(contract.topic for contract in system_contracts())


def make_two_settings(folder: Path, **values: str) -> list[Settings]:
    """Two projects whose names begin alike, on profiles of the same name."""
    name = f"shop_{new_id()[-12:]}"
    return [make_settings(folder / each, each, "prod", values=values) for each in (name, f"{name}_model")]


@pytest.fixture
def admin(broker: Broker) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.url.removeprefix("kafka://")})


@pytest.fixture
def settings(broker: Broker, tmp_path: Path) -> list[Settings]:
    return make_two_settings(tmp_path, log=broker.url)


@pytest.fixture
def logs(settings: Sequence[Settings]) -> Iterator[list[Log]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(log.open(each.log.url))) for each in settings]


def find_system_topics(opened: Log) -> list[str]:
    return [topic for topic in opened.topics() if topic.startswith("headrace.")]


def test_each_project_follows_its_own_releases(logs: list[Log]) -> None:
    for version, opened in enumerate(logs, 1):
        release.append(opened, release.make("purchase", [Arm(version)], by="test", why="because"))
    in_force = [release.history(opened, "purchase") for opened in logs]
    assert [[each.arms[0].version for each in releases] for releases in in_force] == [[1], [2]]


def test_each_project_has_its_own_system_topics(
    logs: list[Log], settings: list[Settings], admin: AdminClient
) -> None:
    for number, opened in enumerate(logs):
        assert find_system_topics(opened) == []
        for topic in SYSTEM:
            opened.create(topic)
            opened.append(topic, [b"%d" % number], [b"key"])
    assert [find_system_topics(opened) for opened in logs] == [SYSTEM, SYSTEM]
    read = [[read_all(opened, topic) for topic in SYSTEM] for opened in logs]
    assert read == [[{(0, 0): b"0"}] * len(SYSTEM), [{(0, 0): b"1"}] * len(SYSTEM)]
    stored = {name for name in admin.list_topics(timeout=30).topics if name.startswith("headrace.shop_")}
    expected = {each.log.stored_name(topic) for topic in SYSTEM for each in settings}
    assert f"headrace.{settings[0].project}.releases" in expected
    assert expected <= stored


def test_every_operation_is_on_the_projects_own_topic(logs: list[Log], tmp_path: Path) -> None:
    first, second = logs
    hour = timedelta(hours=1)
    first.create(RELEASES, 2, hour)
    second.create(RELEASES)
    assert first.append(RELEASES, [b"a", b"b"], [b"k", b"k"])
    partition = next(place for place, end in first.end(RELEASES).items() if end)
    assert first.read(RELEASES, {partition: 0}, 10).values == [b"a", b"b"]
    assert (first.wait(RELEASES, {partition: 0}, 0), second.wait(RELEASES, {0: 0}, 0)) == (True, False)
    first.trim(RELEASES, {partition: 1})
    assert (first.start(RELEASES)[partition], second.end(RELEASES)) == (1, {0: 0})
    assert (first.retention(RELEASES), second.retention(RELEASES)) == (hour, None)
    assert (first.partitions(RELEASES), second.partitions(RELEASES)) == (2, 1)
    assert first.identity(RELEASES) != second.identity(RELEASES)
    assert first.largest(RELEASES) == second.largest(RELEASES) > 1_000_000
    with closing(first.join(RELEASES, "workers", tmp_path)) as member:
        until(lambda: member.partitions() == {0, 1})
    first.grow(RELEASES, 3)  # type: ignore[attr-defined]
    assert (first.partitions(RELEASES), second.partitions(RELEASES)) == (3, 1)


def test_a_system_topic_that_exists_is_found_without_a_list_of_all_topics(
    logs: list[Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 3,000 topics on the cluster the list takes 40 ms, and each release and alert creates its topic."""
    logs[0].create(RELEASES)
    monkeypatch.delattr(KafkaTopics, "names")
    logs[0].create(RELEASES)
    with pytest.raises(AttributeError):
        logs[1].create(RELEASES)


def test_a_log_without_a_project_has_no_system_topics(broker: Broker, logs: list[Log]) -> None:
    logs[0].create(ALERTS)
    with closing(log.open(broker.url)) as opened:
        assert find_system_topics(opened) == []
        for topic in (ALERTS, "headrace.shop.alerts"):
            with pytest.raises(CallError, match="belongs to a project, and this log was opened without one"):
                opened.create(topic)


def test_records_of_an_earlier_headrace_are_not_left_behind_in_silence(
    logs: list[Log], settings: list[Settings], admin: AdminClient
) -> None:
    """An earlier one stored the system topics of all projects under the same names."""
    opened, topic = logs[0], f"headrace.old_{new_id()[-12:]}"
    admin.create_topics([NewTopic(topic, 1)])[topic].result(30)
    try:
        until(lambda: topic in admin.list_topics(timeout=30).topics)
        own = f"headrace.{settings[0].project}.{topic.removeprefix('headrace.')}"
        for use in (opened.topics, lambda: opened.create(topic)):
            with pytest.raises(Refused, match="is of an earlier Headrace, whose projects shared it") as refused:
                use()
            assert f"Create topic {own!r}" in str(refused.value)
        admin.create_topics([NewTopic(own, 1)])[own].result(30)
        until(lambda: own in admin.list_topics(timeout=30).topics)
        opened.create(topic)
        assert find_system_topics(opened) == [topic]
    finally:
        admin.delete_topics([topic])[topic].result(30)
        until(lambda: topic not in admin.list_topics(timeout=30).topics)


def test_one_topic_is_forwarded_to_two_topics_by_one_project_only(logs: list[Log]) -> None:
    contract = contract_of(Click)
    assert contract is not None
    topic = f"clicks-{new_id()[-12:]}"
    forward = (f"{topic}.good", f"{topic}.bad")
    contract = attrs.evolve(contract, topic=topic, forward=forward)
    sink = ForwardSink(contract, logs[0])
    with pytest.raises(Refused, match="another project forwards the same topic") as refused:
        ForwardSink(contract, logs[1])
    assert "would have each event twice" in str(refused.value)
    other = ForwardSink(attrs.evolve(contract, forward=(f"{topic}.mine", f"{topic}.bad")), logs[1])
    again = ForwardSink(contract, logs[0])
    for each in (sink, other, again):
        each.close()


def test_of_two_projects_that_begin_to_forward_at_once_one_is_refused(
    logs: list[Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = contract_of(Click)
    assert contract is not None
    topic = f"clicks-{new_id()[-12:]}"
    contract = attrs.evolve(contract, topic=topic, forward=(f"{topic}.good", f"{topic}.bad"))
    create, barrier = KafkaTopics.create_compacted, Barrier(2)

    def create_together(topics: KafkaTopics, *arguments: Any) -> None:
        barrier.wait(60)  # both have looked for another's positions, and found none
        create(topics, *arguments)

    def begin(opened: Log) -> bool:
        try:
            ForwardSink(contract, opened).close()
        except Refused:
            return False
        return True

    logs[0].create(topic)
    monkeypatch.setattr(KafkaTopics, "create_compacted", create_together)
    with ThreadPoolExecutor(2) as threads:
        assert sum(threads.map(begin, logs)) < 2


def test_positions_of_forwarding_by_an_earlier_headrace_are_not_given_up(
    logs: list[Log], admin: AdminClient
) -> None:
    """Without them every event would be forwarded twice."""
    contract = contract_of(Click)
    assert contract is not None
    topic = f"clicks-{new_id()[-12:]}"
    contract = attrs.evolve(contract, topic=topic, forward=(f"{topic}.good", f"{topic}.bad"))
    ForwardSink(contract, logs[0]).close()
    own = next(name for name in find_system_topics(logs[0]) if name.startswith("headrace.forward."))
    admin.create_topics([NewTopic(own, 1)])[own].result(30)
    until(lambda: own in admin.list_topics(timeout=30).topics)
    try:
        with pytest.raises(Refused, match="an earlier Headrace forwarded this topic") as refused:
            ForwardSink(contract, logs[1])
        assert "every event would be forwarded again" in str(refused.value)
    finally:
        admin.delete_topics([own])[own].result(30)


def test_a_topic_whose_name_kafka_takes_for_another_is_refused(
    broker: Broker, logs: list[Log], settings: list[Settings]
) -> None:
    """Trying again would not help: Kafka does not tell `.` from `_`."""
    with closing(log.open(broker.url)) as opened:
        opened.create(f"headrace_{settings[0].project}_alerts")
    with pytest.raises(Refused, match=r"refuses to create topic .* collides with existing topic"):
        logs[0].create(ALERTS)
    with (
        closing(log.open(f"{broker.url}/{'a' * 240}")) as opened,
        pytest.raises(CallError, match="not a valid"),
    ):
        opened.create(ALERTS)


def test_two_projects_that_ingest_one_topic_both_get_the_whole(
    logs: list[Log], settings: list[Settings]
) -> None:
    contract = contract_of(Click)
    assert contract is not None
    contract = attrs.evolve(contract, topic=f"clicks-{new_id()[-12:]}", dedup_within=None)
    logs[0].create(contract.topic, 2)
    schema = pa.schema([("user", pa.int64())])
    with ExitStack() as stack:
        shares = []
        for each, opened in zip(settings, logs, strict=True):
            table = lake.open(each).ensure(contract.table, schema)
            shares.append(TopicShare(contract, opened, table))
            stack.enter_context(shares[-1].join(lambda: None))

        def find_shares() -> list[frozenset[int]]:
            for share in shares:
                share.refresh()
            return [share.partitions for share in shares]

        until(lambda: find_shares() == [{0, 1}, {0, 1}])
    logs[0].append(contract.topic, [click(1)])
    assert list(read_all(logs[1], contract.topic).values()) == [click(1)]


def test_lineage_names_the_stored_topic(settings: list[Settings], broker: Broker) -> None:
    names = [Names.of(each) for each in settings]
    topics = [[each.dataset(Dataset("topic", topic)) for topic in (RELEASES, "clicks")] for each in names]
    assert topics == [
        [(broker.url, f"headrace.{each.project}.releases"), (broker.url, "clicks")] for each in settings
    ]


def test_each_project_has_its_own_tables_in_one_catalog_and_bucket(
    rest_catalog: Catalog, object_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    lakes = [
        lake.open(settings)
        for settings in make_two_settings(tmp_path, catalog=rest_catalog.url, warehouse=object_store.url)
    ]
    for number, opened in enumerate(lakes):
        assert opened.list_tables() == []
        opened.ensure("clicks", pa.schema([("x", pa.int64())])).overwrite(pa.table({"x": [number]}))
    assert [opened.table("clicks").scan().collect()["x"].to_list() for opened in lakes] == [[0], [1]]
    folders = sorted(opened.table("clicks").iceberg().location().rstrip("/") + "/" for opened in lakes)
    assert not folders[1].startswith(folders[0])
    lakes[1].drop_table("clicks")
    assert [opened.list_tables() for opened in lakes] == [["clicks"], []]
