from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from datetime import datetime
from typing import Annotated

import pytest
from tests.events.clicks import click

from headrace import Meta, Struct, event
from headrace.declare.event import Contract, contract_of
from headrace.events.ingest import Ingest, Progress
from headrace.events.quarantine import groups, replay, show
from headrace.kernel.errors import CallError
from headrace.lake import Lake
from headrace.log import Log


@event(topic="clicks", time="at", identity=["user", "page"], within="1h", version=2)
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
    assert found[0].example == click(4, price=-1).decode()
    assert found[0].reason == "Expected `float` > 0.0"
    assert found[1].example == "\ufffd no"
    assert found[0].first <= found[0].last
    assert [(w.partition, w.offset, w.code) for w in show(contract, lake, limit=2)] == [
        (0, 4, "out_of_range"), (0, 3, "unknown_value"),
    ]  # fmt: skip
    (one,) = show(contract, lake, code="not_json")
    assert one.raw == b"\xff no"
    with pytest.raises(CallError, match="no code"):
        show(contract, lake, code="unheard")


def test_a_replay_after_the_fix_is_admitted_once(
    contract: Contract, mended: Contract, events_log: Log, lake: Lake
) -> None:
    filled(contract, events_log, lake)
    assert replay(mended, lake, events_log, code="out_of_range") == 2
    assert replay(mended, lake, events_log, positions=[(0, 1), (0, 3)]) == 2  # one of them a second time
    assert ingested(mended, events_log, lake) == Counter(good=3, duplicate=1)
    rows = lake.table("clicks").scan().filter("_valid").collect().sort("_log_offset")
    assert rows["user"].to_list() == [1, 2, 4, 3]
    assert rows["_first_offset"].to_list() == [None, 1, 4, 3]
    assert [(g.code, g.count) for g in groups(mended, lake)] == [("not_json", 1)]
    assert replay(mended, lake, events_log, code="out_of_range") == 0


def test_a_replay_refused_again_still_waits_and_may_be_replayed(
    contract: Contract, mended: Contract, events_log: Log, lake: Lake
) -> None:
    filled(contract, events_log, lake)
    assert replay(contract, lake, events_log, field="price", limit=1) == 1
    assert ingested(contract, events_log, lake) == Counter(out_of_range=1)
    assert {g.code: g.count for g in groups(contract, lake)} == {
        "out_of_range": 2,
        "not_json": 1,
        "unknown_value": 1,
    }
    assert replay(mended, lake, events_log, field="price") == 2
    assert ingested(mended, events_log, lake) == Counter(good=2)


def test_a_first_position_that_was_good_is_not_admitted_again(
    contract: Contract, events_log: Log, lake: Lake
) -> None:
    filled(contract, events_log, lake)
    forged = {"headrace.first": b"0:0"}
    events_log.append("clicks", [click(9), click(8)], headers=[forged, {"headrace.first": b"not a position"}])
    assert ingested(replace(contract, within=None), events_log, lake) == Counter(good=1, duplicate=1)
