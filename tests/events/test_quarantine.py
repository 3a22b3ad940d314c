"""Quarantine: refused events grouped by reason, and their replay after the contract is fixed."""

from __future__ import annotations

import os
import threading
from collections import Counter
from datetime import datetime, timedelta
from typing import Annotated, Any

import attrs
import pytest
from services.kafka import Broker
from tests.events.clicks import click
from tests.log.topics import set_largest_batch

from headrace import Meta, Struct, event, log
from headrace.declare.event import Contract, contract_of
from headrace.events import formats, quarantine
from headrace.events.ingest.ingest import Ingest, IngestHooks, Progress
from headrace.events.quarantine import QuarantineSelection, find_refused, refusal_groups, replay
from headrace.events.verdicts.keys import key_reader
from headrace.kernel.errors import CallError
from headrace.kernel.ids import new_id
from headrace.lake import Lake
from headrace.log import Log
from headrace.log.partition import partition_of


@event(topic="clicks", time="at", identity=["user", "page"], dedup_within="1h", version=2)
class FixedClick(Struct):
    """The contract after its fix: any page, any price."""

    at: datetime
    user: Annotated[int, Meta(ge=0)]
    page: str
    price: float | None = None
    note: str | None = None


@pytest.fixture
def new_contract() -> Contract:
    declared = contract_of(FixedClick)
    assert declared is not None
    return declared


def ingest_all(contract: Contract, log: Log, lake: Lake) -> Counter[str]:
    """Ingests the log to its end; returns the number of good events, and of refused ones by code."""
    commits: list[Progress] = []
    Ingest(contract, log, lake).run(until_end=True, stop=threading.Event(), hooks=IngestHooks(commits.append))
    verdicts = Counter(good=sum(progress.good for progress in commits))
    for progress in commits:
        verdicts += progress.refused
    return verdicts


def ingest_five_clicks(contract: Contract, log: Log, lake: Lake) -> None:
    log.create("clicks")
    log.append("clicks", [click(1), click(2, price=-5), b"\xff no", click(3, page="attic"), click(4, price=-1)])
    assert ingest_all(contract, log, lake) == Counter(good=1, out_of_range=2, not_json=1, unknown_value=1)


def test_refused_events_are_grouped_and_selected(contract: Contract, events_log: Log, lake: Lake) -> None:
    assert refusal_groups(contract, lake) == []
    ingest_five_clicks(contract, events_log, lake)
    groups = refusal_groups(contract, lake)
    assert [(g.code, g.field, g.count) for g in groups] == [
        ("out_of_range", "price", 2),
        ("not_json", None, 1),
        ("unknown_value", "page", 1),
    ]
    assert [(e.offset, e.raw) for e in groups[0].examples] == [(4, click(4, price=-1)), (1, click(2, price=-5))]
    assert groups[0].examples[0].reason == "Expected `float` > 0.0"
    assert groups[1].examples[0].raw == b"\xff no"
    assert [g.share for g in groups] == [0.4, 0.2, 0.2]
    assert groups[0].first <= groups[0].last

    def select(**attributes: Any) -> list[tuple[int, int, str]]:
        events = find_refused(contract, lake, QuarantineSelection(**attributes))
        return [(event.partition, event.offset, event.code) for event in events]

    assert select(limit=2) == [(0, 4, "out_of_range"), (0, 3, "unknown_value")]
    assert select(positions=((0, 2), (0, 0), (9, 9))) == [(0, 2, "not_json")]
    assert [at for _, at, _ in select(field="price")] == [4, 1]
    assert select(since=groups[0].last + timedelta(microseconds=1)) == []
    assert len(select(since=groups[0].first, until=groups[0].last + timedelta(microseconds=1))) == 4
    (refused,) = find_refused(contract, lake, QuarantineSelection(code="not_json"))
    assert refused.raw == b"\xff no"
    with pytest.raises(CallError, match="not a refusal code"):
        find_refused(contract, lake, QuarantineSelection(code="unheard"))


def test_replay_after_the_fix_is_admitted_once(
    contract: Contract, new_contract: Contract, events_log: Log, lake: Lake
) -> None:
    ingest_five_clicks(contract, events_log, lake)
    selection = QuarantineSelection(code="out_of_range")
    result = replay(new_contract, lake, events_log, selection, dry_run=True)
    assert (result.events, result.reasons) == (2, (("out_of_range", "price", 2),))
    assert events_log.end("clicks") == {0: 5}
    assert replay(new_contract, lake, events_log, selection) == result
    # Replay one of the two a second time.
    assert replay(new_contract, lake, events_log, QuarantineSelection(positions=((0, 1), (0, 3)))).events == 2
    assert ingest_all(new_contract, events_log, lake) == Counter(good=3, duplicate=1)
    rows = lake.table("clicks").scan().filter("_valid").collect().sort("_log_offset")
    assert rows["user"].to_list() == [1, 2, 4, 3]
    assert rows["_first_offset"].to_list() == [None, 1, 4, 3]
    assert [(g.code, g.count) for g in refusal_groups(new_contract, lake)] == [("not_json", 1)]
    assert replay(new_contract, lake, events_log, selection).events == 0


def test_event_refused_again_on_replay_stays_and_can_be_replayed(
    contract: Contract, new_contract: Contract, events_log: Log, lake: Lake
) -> None:
    ingest_five_clicks(contract, events_log, lake)
    assert replay(contract, lake, events_log, QuarantineSelection(field="price", limit=1)).events == 1
    assert ingest_all(contract, events_log, lake) == Counter(out_of_range=1)
    # A replay that is refused again is the newest: with a limit the others come first.
    assert replay(contract, lake, events_log, QuarantineSelection(field="price", limit=1)).events == 1
    assert events_log.read("clicks", {0: 6}, 1).headers == [{"headrace.first": b"0:4"}]
    assert ingest_all(contract, events_log, lake) == Counter(out_of_range=1)
    assert {g.code: g.count for g in refusal_groups(contract, lake)} == {
        "out_of_range": 2,
        "not_json": 1,
        "unknown_value": 1,
    }
    assert replay(new_contract, lake, events_log, QuarantineSelection(field="price")).events == 2
    assert ingest_all(new_contract, events_log, lake) == Counter(good=2)


def test_replay_of_an_event_that_was_good_is_not_admitted_again(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    ingest_five_clicks(contract, events_log, lake)
    forged = {"headrace.first": b"0:0"}
    events_log.append("clicks", [click(9), click(8)], headers=[forged, {"headrace.first": b"not a position"}])
    assert ingest_all(attrs.evolve(contract, dedup_within=None), events_log, lake) == Counter(
        good=1, duplicate=1
    )


def test_every_replay_of_an_event_is_in_one_log_partition(
    contract: Contract, lake: Lake, events_log: Log
) -> None:
    wide = attrs.evolve(contract, partitions=4)
    events_log.create("clicks", 4)
    broken = [click(n, price=-1) for n in range(8)] + [b"no %d" % n for n in range(8)]
    events_log.append("clicks", broken, [None] * 16)
    assert ingest_all(wide, events_log, lake).total() == 16
    partitions_of_value: dict[bytes, set[int]] = {}
    for _ in range(3):
        before = events_log.end("clicks")
        assert replay(wide, lake, events_log, QuarantineSelection()).events == 16
        batch = events_log.read("clicks", before, 100)
        for value, partition in zip(batch.values, batch.partitions.tolist(), strict=True):
            partitions_of_value.setdefault(value, set()).add(partition)
        assert ingest_all(wide, events_log, lake).total() == 16
    assert {len(partitions) for partitions in partitions_of_value.values()} == {1}
    assert {p for raw, ps in partitions_of_value.items() if raw[:2] == b"no" for p in ps} > {0}, (
        "all in one partition"
    )
    assert partitions_of_value[broken[3]] == {partition_of(b"3", 4)}, "not the partition that send chooses"


def test_key_reader_follows_the_format(contract: Contract) -> None:
    enveloped = attrs.evolve(contract, format="connect")
    read_keys = key_reader(enveloped, formats.open(enveloped))
    assert read_keys([b'{"schema": null, "payload": {"user": 7, "price": -1}}', b'{"user": 7}']) == [b"7", None]


def test_replay_larger_than_a_transaction_is_refused(
    contract: Contract, events_log: Log, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest_five_clicks(contract, events_log, lake)
    monkeypatch.setattr(quarantine, "MOST_EVENTS", 3)
    with pytest.raises(CallError, match="4 events of 0 MB are selected"):
        replay(contract, lake, events_log, QuarantineSelection())
    assert replay(contract, lake, events_log, QuarantineSelection(limit=3)).events == 3


def test_hundred_thousand_events_are_replayed_in_one_transaction_on_kafka(
    contract: Contract, lake: Lake, broker: Broker
) -> None:
    kafka = log.open(broker.url)
    wide = attrs.evolve(contract, topic=f"clicks-{new_id()[-12:]}", partitions=2)
    kafka.create(wide.topic, 2)
    for begin in range(0, 100_000, 25_000):
        kafka.append(wide.topic, [b'{"user": %d, "page": "attic"}' % n for n in range(begin, begin + 25_000)])
    assert ingest_all(wide, kafka, lake) == Counter(unknown_value=100_000)
    before = sum(kafka.end(wide.topic).values())
    result = replay(wide, lake, kafka, QuarantineSelection())
    assert result.events == 100_000
    # One transaction: one marker in each log partition beside the records.
    assert sum(kafka.end(wide.topic).values()) == before + 100_000 + 2
    kafka.close()


def test_events_larger_than_a_lowered_limit_stay_and_the_others_are_replayed(
    contract: Contract, new_contract: Contract, lake: Lake, broker: Broker
) -> None:
    kafka = log.open(broker.url)
    topic = f"clicks-{new_id()}"
    contract, new_contract = (
        attrs.evolve(version, topic=topic, partitions=1) for version in (contract, new_contract)
    )
    kafka.create(topic)
    large = click(2, page="attic", note=os.urandom(30_000).hex())
    kafka.append(topic, [click(1, page="attic"), large, click(3, page="cellar")])
    ingest_all(contract, kafka, lake)
    set_largest_batch(broker.url, topic, 20_000)
    result = replay(new_contract, lake, kafka, QuarantineSelection())
    assert (result.events, result.reasons, result.too_large) == (2, (("unknown_value", "page", 2),), ((0, 1),))
    assert ingest_all(new_contract, kafka, lake)["good"] == 2
    (refused,) = find_refused(new_contract, lake, QuarantineSelection())
    assert (refused.partition, refused.offset) == (0, 1)
    set_largest_batch(broker.url, topic, 1_000_000)
    kafka.close()
    kafka = log.open(broker.url)
    assert replay(new_contract, lake, kafka, QuarantineSelection()).events == 1
    assert ingest_all(new_contract, kafka, lake)["good"] == 1
    kafka.close()
