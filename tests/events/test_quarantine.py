from __future__ import annotations

import os
import threading
from collections import Counter
from datetime import datetime, timedelta
from typing import Annotated

import attrs
import pytest
from services.kafka import Broker
from tests.contract.test_log import configure
from tests.events.clicks import click

from headrace import Meta, Struct, event, log
from headrace.declare.event import Contract, contract_of
from headrace.events import formats, quarantine
from headrace.events.ingest.ingest import Ingest, Progress
from headrace.events.quarantine import Choice, groups, replay, show
from headrace.events.verdicts.keys import key_reader
from headrace.kernel.errors import CallError
from headrace.kernel.ids import new_id
from headrace.lake import Lake
from headrace.log import Log
from headrace.log.partition import partition_of


@event(topic="clicks", time="at", identity=["user", "page"], dedup_within="1h", version=2)
class Mended(Struct):
    """The contract after its fix: any page, any price."""

    at: datetime
    user: Annotated[int, Meta(ge=0)]
    page: str
    price: float | None = None
    note: str | None = None


@pytest.fixture
def mended() -> Contract:
    found = contract_of(Mended)
    assert found is not None
    return found


def ingested(contract: Contract, log: Log, lake: Lake) -> Counter[str]:
    told: list[Progress] = []
    Ingest(contract, log, lake).run(until_end=True, stop=threading.Event(), tell=told.append)
    counted = Counter(good=sum(one.good for one in told))
    for one in told:
        counted += one.refused
    return counted


def filled(contract: Contract, log: Log, lake: Lake) -> None:
    log.create("clicks")
    log.append("clicks", [click(1), click(2, price=-5), b"\xff no", click(3, page="attic"), click(4, price=-1)])
    assert ingested(contract, log, lake) == Counter(good=1, out_of_range=2, not_json=1, unknown_value=1)


def test_what_waits_is_grouped_and_shown(contract: Contract, events_log: Log, lake: Lake) -> None:
    assert groups(contract, lake) == []
    filled(contract, events_log, lake)
    found = groups(contract, lake)
    assert [(g.code, g.field, g.count) for g in found] == [
        ("out_of_range", "price", 2), ("not_json", None, 1), ("unknown_value", "page", 1),
    ]  # fmt: skip
    assert [(e.offset, e.raw) for e in found[0].examples] == [(4, click(4, price=-1)), (1, click(2, price=-5))]
    assert found[0].examples[0].reason == "Expected `float` > 0.0"
    assert found[1].examples[0].raw == b"\xff no"
    assert [g.share for g in found] == [0.4, 0.2, 0.2]
    assert found[0].first <= found[0].last

    def shown(**chosen: object) -> list[tuple[int, int, str]]:
        return [(w.partition, w.offset, w.code) for w in show(contract, lake, Choice(**chosen))]  # type: ignore[arg-type]

    assert shown(limit=2) == [(0, 4, "out_of_range"), (0, 3, "unknown_value")]
    assert shown(positions=((0, 2), (0, 0), (9, 9))) == [(0, 2, "not_json")]
    assert [at for _, at, _ in shown(field="price")] == [4, 1]
    assert shown(since=found[0].last + timedelta(microseconds=1)) == []
    assert len(shown(since=found[0].first, until=found[0].last + timedelta(microseconds=1))) == 4
    (one,) = show(contract, lake, Choice(code="not_json"))
    assert one.raw == b"\xff no"
    with pytest.raises(CallError, match="no code"):
        show(contract, lake, Choice(code="unheard"))


def test_a_replay_after_the_fix_is_admitted_once(
    contract: Contract, mended: Contract, events_log: Log, lake: Lake
) -> None:
    filled(contract, events_log, lake)
    chosen = Choice(code="out_of_range")
    told = replay(mended, lake, events_log, chosen, dry_run=True)
    assert (told.events, told.reasons) == (2, (("out_of_range", "price", 2),))
    assert events_log.end("clicks") == {0: 5}
    assert replay(mended, lake, events_log, chosen) == told
    # one of them a second time
    assert replay(mended, lake, events_log, Choice(positions=((0, 1), (0, 3)))).events == 2
    assert ingested(mended, events_log, lake) == Counter(good=3, duplicate=1)
    rows = lake.table("clicks").scan().filter("_valid").collect().sort("_log_offset")
    assert rows["user"].to_list() == [1, 2, 4, 3]
    assert rows["_first_offset"].to_list() == [None, 1, 4, 3]
    assert [(g.code, g.count) for g in groups(mended, lake)] == [("not_json", 1)]
    assert replay(mended, lake, events_log, chosen).events == 0


def test_a_replay_refused_again_still_waits_and_may_be_replayed(
    contract: Contract, mended: Contract, events_log: Log, lake: Lake
) -> None:
    filled(contract, events_log, lake)
    assert replay(contract, lake, events_log, Choice(field="price", limit=1)).events == 1
    assert ingested(contract, events_log, lake) == Counter(out_of_range=1)
    # What was refused again is the last to come again: with a limit one gets on.
    assert replay(contract, lake, events_log, Choice(field="price", limit=1)).events == 1
    assert events_log.read("clicks", {0: 6}, 1).headers == [{"headrace.first": b"0:4"}]
    assert ingested(contract, events_log, lake) == Counter(out_of_range=1)
    assert {g.code: g.count for g in groups(contract, lake)} == {
        "out_of_range": 2,
        "not_json": 1,
        "unknown_value": 1,
    }
    assert replay(mended, lake, events_log, Choice(field="price")).events == 2
    assert ingested(mended, events_log, lake) == Counter(good=2)


def test_a_first_position_that_was_good_is_not_admitted_again(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    filled(contract, events_log, lake)
    forged = {"headrace.first": b"0:0"}
    events_log.append("clicks", [click(9), click(8)], headers=[forged, {"headrace.first": b"not a position"}])
    assert ingested(attrs.evolve(contract, dedup_within=None), events_log, lake) == Counter(good=1, duplicate=1)


def test_every_replay_of_an_event_is_in_one_log_partition(
    contract: Contract, lake: Lake, events_log: Log
) -> None:
    wide = attrs.evolve(contract, partitions=4)
    events_log.create("clicks", 4)
    broken = [click(n, price=-1) for n in range(8)] + [b"no %d" % n for n in range(8)]
    events_log.append("clicks", broken, [None] * 16)
    assert ingested(wide, events_log, lake).total() == 16
    places: dict[bytes, set[int]] = {}
    for _ in range(3):
        before = events_log.end("clicks")
        assert replay(wide, lake, events_log, Choice()).events == 16
        batch = events_log.read("clicks", before, 100)
        for value, partition in zip(batch.values, batch.partitions.tolist(), strict=True):
            places.setdefault(value, set()).add(partition)
        assert ingested(wide, events_log, lake).total() == 16
    assert {len(one) for one in places.values()} == {1}
    assert {p for raw, found in places.items() if raw[:2] == b"no" for p in found} > {0}, "all in one"
    assert places[broken[3]] == {partition_of(b"3", 4)}, "not where send puts it"


def test_the_key_is_read_as_the_format_says(contract: Contract) -> None:
    enveloped = attrs.evolve(contract, format="connect")
    read = key_reader(enveloped, formats.open(enveloped))
    assert read([b'{"schema": null, "payload": {"user": 7, "price": -1}}', b'{"user": 7}']) == [b"7", None]


def test_a_replay_of_more_than_a_transaction_takes_is_refused(
    contract: Contract, events_log: Log, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(contract, events_log, lake)
    monkeypatch.setattr(quarantine, "MOST_EVENTS", 3)
    with pytest.raises(CallError, match="4 events of 0 MB are chosen"):
        replay(contract, lake, events_log, Choice())
    assert replay(contract, lake, events_log, Choice(limit=3)).events == 3


def test_a_hundred_thousand_are_replayed_in_one_transaction_on_kafka(
    contract: Contract, lake: Lake, broker: Broker
) -> None:
    kafka = log.open(broker.url)
    wide = attrs.evolve(contract, topic=f"clicks-{new_id()[-12:]}", partitions=2)
    kafka.create(wide.topic, 2)
    for begin in range(0, 100_000, 25_000):
        kafka.append(wide.topic, [b'{"user": %d, "page": "attic"}' % n for n in range(begin, begin + 25_000)])
    assert ingested(wide, kafka, lake) == Counter(unknown_value=100_000)
    before = sum(kafka.end(wide.topic).values())
    told = replay(wide, lake, kafka, Choice())
    assert told.events == 100_000
    # One transaction: one marker a log partition beside the records.
    assert sum(kafka.end(wide.topic).values()) == before + 100_000 + 2
    kafka.close()


def test_what_the_topic_takes_no_longer_waits_on_and_the_others_are_replayed(
    contract: Contract, mended: Contract, lake: Lake, broker: Broker
) -> None:
    kafka = log.open(broker.url)
    topic = f"clicks-{new_id()}"
    contract, mended = (attrs.evolve(one, topic=topic, partitions=1) for one in (contract, mended))
    kafka.create(topic)
    large = click(2, page="attic", note=os.urandom(30_000).hex())
    kafka.append(topic, [click(1, page="attic"), large, click(3, page="cellar")])
    ingested(contract, kafka, lake)
    configure(broker.url, topic, 20_000)
    done = replay(mended, lake, kafka, Choice())
    assert (done.events, done.reasons, done.too_large) == (2, (("unknown_value", "page", 2),), ((0, 1),))
    assert ingested(mended, kafka, lake)["good"] == 2
    assert [(one.partition, one.offset) for one in show(mended, lake, Choice())] == [(0, 1)]
    configure(broker.url, topic, 1_000_000)
    kafka.close()
    kafka = log.open(broker.url)
    assert replay(mended, lake, kafka, Choice()).events == 1
    assert ingested(mended, kafka, lake)["good"] == 1
    kafka.close()
