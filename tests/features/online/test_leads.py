"""Events are online before they are in the table, and count once, whatever is killed or edited meanwhile."""

import json
import os
import subprocess
import sys
import textwrap
import threading

import polars as pl
import pytest
from msgspec.structs import replace
from tests.features.online.clicks import activity, clicks_until, ingest, look_up, plan_of, send
from tests.until import until

from headrace import lake as lakes
from headrace import log as logs
from headrace.events.ingest.ingest import Ingest
from headrace.events.ingest.position import read_position
from headrace.events.ingest.rows import good_rows
from headrace.events.ingest.sinks import sink_schema
from headrace.events.verdicts.judge import Judge
from headrace.features.checks.parity import check_parity
from headrace.features.checks.recompute import ServedPrediction
from headrace.features.online.backfill import fill, fill_again
from headrace.features.online.follow import OnlineSink
from headrace.features.online.leads import digest_events
from headrace.kernel.errors import CallError
from headrace.kernel.position import (
    Lead,
    LeadingPosition,
    LogPosition,
    decode_position,
    encode_position,
    leads_of,
)
from headrace.kernel.time import from_micros, now_micros
from headrace.projects.project import load_project

USERS = range(7)
VIEW, TWICE = activity(), activity("twice", "twice")
PLAN = plan_of(VIEW, TWICE)
EMPTY = pl.DataFrame(
    schema={"user": pl.Int64, "at": pl.Datetime("us", "UTC"), "cents": pl.Int64, "price": pl.Float64}
).to_arrow()


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def online_address(request):
    if request.param == "redis":
        return request.getfixturevalue("empty_redis")
    return "sqlite" if request.param == "sqlite" else request.getfixturevalue("empty_database")


@pytest.fixture
def contract(project, log, lake, store):
    """Two views filled from a table of 200 events."""
    log.create("clicks", 2)
    send(log, clicks_until(now_micros(), 200))
    ingest(project, log, lake)
    fill(project, lake, PLAN, store)
    return project.contract("clicks")


WIDE = """
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal
from headrace import Precision

class Part(Struct):
    size: float
    tags: list[str | None]

@event(topic="wide", time="at")
class Wide(Struct):
    at: datetime
    user: int
    price: float
    kind: Literal["a", "b"] | None = None
    amount: Annotated[Decimal, Precision(10, 2)] | None = None
    amounts: list[Annotated[Decimal, Precision(10, 2)]] | None = None
    part: Part | None = None
    blob: bytes | None = None
    day: date | None = None
    any: Any = None
"""


class Leader:
    """An ingest that judges and leads with what is on the log, and is killed before its commit."""

    def __init__(self, project, contract, log, lake, store):
        self.sink = OnlineSink(project, contract, store, lake)
        self._log, self._judge, self._judged = log, Judge(contract), []
        self.committed = self._position = read_position(lake.table("clicks"))
        self.sink.confirm(self.committed)

    def lead(self, most=1_000):
        batch = self._log.read("clicks", self._position.offsets, most)
        self._position = self._position.with_offsets(batch.next)
        self._judged.append(self._judge.judge(batch).good_rows)
        self.sink.lead(self._judged, self.committed, self._position)
        return self._position


def compare(project, lake, store, users=USERS):
    """Compares both views with the table, at the same position and moment, by parity's own recomputation, and
    the last prices with plain Python."""
    at = now_micros()
    looked_up = store.lookup(PLAN, [{"user": user} for user in users], at)
    names = [f"{feature.view}__{feature.name}" for feature in PLAN.features]
    served = [
        ServedPrediction(str(user), at, {"user": user}, dict(zip(names, row, strict=True)), positions)
        for user, row, positions in zip(users, looked_up.rows, looked_up.positions, strict=True)
    ]
    report = check_parity(project, lake, PLAN, served)
    assert (report.checked, report.differing) == (len(users), [])
    rows = lake.table("clicks").scan().filter(pl.col("_valid"), pl.col("price") > 1).collect()
    for user, row in zip(users, looked_up.rows, strict=True):
        mine = rows.filter(pl.col("user") == user).sort("at")
        day_before = at - 86_400_000_000
        since = day_before // 3_600_000_000 * 3_600_000_000
        prices = mine.filter(pl.col("at").dt.epoch("us") >= since)["price"].to_list()
        assert row[1] == (sum(int(price * 100) for price in prices) if prices else None)


def test_a_key_forgotten_before_the_commit_of_its_events_stays_forgotten(project, log, lake, store, contract):
    """Its events in the lead are gone, as those before. Later ones count, until the view is filled again."""
    leader = Leader(project, contract, log, lake, store)
    send(log, clicks_until(now_micros(), 60, seed=2))
    ahead = leader.lead()
    others = [user for user in USERS if user != 1]
    unknown = look_up(store, PLAN, [999], now_micros())
    assert look_up(store, PLAN, [1], now_micros()) != unknown
    assert store.forget([{"user": 1}]) == len(PLAN.windowed)
    ingest(project, log, lake, leader.sink)
    assert read_position(lake.table("clicks")).offsets == ahead.offsets
    assert [leads_of(store.position(view)) for view in PLAN.windowed] == [{}] * 2
    assert look_up(store, PLAN, [1], now_micros()) == unknown
    compare(project, lake, store, others)
    send(log, clicks_until(now_micros(), 60, seed=3))
    ingest(project, log, lake, leader.sink)
    counted = look_up(store, PLAN, [1], now_micros())
    assert counted != unknown
    compare(project, lake, store, others)
    for view in PLAN.windowed:
        fill_again(project, lake, view, store)
    assert look_up(store, PLAN, [1], now_micros()) != counted
    compare(project, lake, store)


def test_events_are_readable_before_their_commit_and_count_once_after_it(project, log, lake, store, contract):
    leader = Leader(project, contract, log, lake, store)
    send(log, clicks_until(now_micros(), 60, seed=2))
    before = look_up(store, PLAN, USERS, now_micros())
    ahead = leader.lead()
    assert look_up(store, PLAN, USERS, now_micros()) != before
    assert [store.position(view).offsets for view in PLAN.windowed] == [ahead.offsets] * 2
    assert read_position(lake.table("clicks")) == leader.committed
    ingest(project, log, lake, leader.sink)
    assert [store.position(view).offsets for view in PLAN.windowed] == [ahead.offsets] * 2
    compare(project, lake, store)
    send(log, clicks_until(now_micros(), 60, seed=3))
    ingestion = ingest(project, log, lake, leader.sink)
    assert [store.position(view) for view in PLAN.windowed] == [ingestion.position] * 2
    compare(project, lake, store)


def test_a_lead_is_confirmed_without_a_new_fill_though_its_events_come_in_other_batches(
    project, log, lake, store, contract, caplog, monkeypatch
):
    """Killed twice in a row before the commit: the second process may not lead before it has committed."""
    leader = Leader(project, contract, log, lake, store)
    send(log, clicks_until(now_micros(), 60, seed=2))
    leader.lead(25)
    first = leader.lead(20)
    again = Leader(project, contract, log, lake, store)
    send(log, clicks_until(now_micros(), 30, seed=3))
    assert not again.sink.may_lead
    again.lead()
    assert store.position(VIEW).offsets == first.offsets
    monkeypatch.setattr("headrace.events.ingest.ingest.BATCH", 17)
    ingestion = ingest(project, log, lake, OnlineSink(project, contract, store, lake))
    assert [store.position(view) for view in PLAN.windowed] == [ingestion.position] * 2
    assert "filled again" not in caplog.text
    compare(project, lake, store)


def test_a_view_whose_lead_an_edited_contract_refuses_is_filled_again(
    project, log, lake, store, contract, caplog
):
    leader = Leader(project, contract, log, lake, store)
    send(log, clicks_until(now_micros(), 80, seed=2))
    leader.lead()
    events = project.settings.root / "small" / "events.py"
    text = events.read_text().replace("price: float", "price: Annotated[float, Meta(lt=20)]")
    events.write_text(
        text.replace("import Struct", "import Meta, Struct")
        .replace("from datetime", "from typing import Annotated\nfrom datetime", 1)
        .replace("partitions=2", "partitions=2, version=2")
    )
    edited = load_project(project.settings)
    ingestion = ingest(
        edited, log, lake, OnlineSink(edited, edited.contract("clicks"), store, lakes.open(project.settings))
    )
    assert lake.table("clicks").scan().filter(~pl.col("_valid")).select(pl.len()).collect().item() > 10
    assert caplog.text.count("it is filled again") == 2
    assert [store.position(view) for view in PLAN.windowed] == [ingestion.position] * 2
    compare(edited, lake, store)


def test_a_field_that_a_contract_gets_later_does_not_count_against_a_confirmed_lead(
    project, log, lake, store, contract, caplog
):
    leader = Leader(project, contract, log, lake, store)
    send(log, clicks_until(now_micros(), 20, seed=2))
    leader.lead()
    ingestion = ingest(project, log, lake, leader.sink)
    assert [store.position(view) for view in PLAN.windowed] == [ingestion.position] * 2
    events = project.settings.root / "small" / "events.py"
    text = events.read_text().replace("price: float", "price: float\n    note: str | None = None")
    events.write_text(text.replace("partitions=2", "partitions=2, version=2"))
    edited = load_project(project.settings)
    ingest(
        edited, log, lake, OnlineSink(edited, edited.contract("clicks"), store, lakes.open(project.settings))
    )
    assert "filled again" not in caplog.text
    compare(edited, lake, store)


def test_a_lead_that_another_process_changed_meanwhile_does_not_end(project, lake, store, contract):
    committed = read_position(lake.table("clicks"))
    lead_wrongly(store, VIEW, committed)
    current = store.position(VIEW)
    for other in (current.with_leads({0: Lead(0, 1)}), current.with_offsets({0: 1}).with_leads(current.leads)):
        store.end_leads([VIEW], other, [0, 1])
        assert store.position(VIEW) == current
    store.end_leads([VIEW], current, [1])
    assert store.position(VIEW) == current
    store.end_leads([VIEW], current, [0])
    assert store.position(VIEW) == current.with_leads({})
    assert isinstance(current, LeadingPosition)
    assert not isinstance(store.position(VIEW), LeadingPosition)
    with pytest.raises(CallError, match="not in the online store"):
        store.end_leads([VIEW, activity("twice", "unknown")], current, [0])


def test_a_view_whose_lead_the_log_lost_is_filled_again(project, log, lake, store, contract, caplog):
    leader = Leader(project, contract, log, lake, store)
    send(log, clicks_until(now_micros(), 80, seed=2))
    log.trim("clicks", leader.lead().offsets)
    send(log, clicks_until(now_micros(), 10, seed=3))
    ingestion = ingest(project, log, lake, OnlineSink(project, contract, store, lake))
    assert caplog.text.count("it is filled again") == 2
    assert [store.position(view) for view in PLAN.windowed] == [ingestion.position] * 2
    compare(project, lake, store)


def lead_wrongly(store, view, committed):
    """Moves a view ahead by one offset of log partition 0, with a lead that no table has."""
    position = committed.with_offsets({0: committed.next_offset(0) + 1})
    lead = {0: Lead(committed.next_offset(0), digest=1)}
    target = LeadingPosition(position.topic, position.log_id, position.offsets, lead)
    store.apply([view], EMPTY, target, after=committed)


def test_a_view_of_other_code_whose_lead_is_wrong_is_dropped(project, log, lake, store, contract, caplog):
    """It cannot be filled again, and its values are wrong."""
    position = read_position(lake.table("clicks"))
    old = replace(VIEW, code="another code")
    store.prepare(plan_of(old))
    store.fill(old, EMPTY, position)
    for view in (VIEW, old):
        lead_wrongly(store, view, position)
    send(log, clicks_until(now_micros(), 60, seed=2))
    ingestion = ingest(project, log, lake, OnlineSink(project, contract, store, lake))
    assert [store.position(view) for view in (*PLAN.windowed, old)] == [ingestion.position] * 2 + [None]
    assert "cannot be filled again and was dropped" in caplog.text
    compare(project, lake, store)


def test_a_view_that_another_process_moved_does_not_lead_until_it_is_confirmed(
    project, log, lake, store, contract
):
    leader = Leader(project, contract, log, lake, store)
    lead_wrongly(store, VIEW, leader.committed)
    send(log, clicks_until(now_micros(), 60, seed=2))
    ahead = leader.lead()
    assert leads_of(store.position(VIEW)) == {0: Lead(leader.committed.next_offset(0), digest=1)}
    assert store.position(TWICE).offsets == ahead.offsets
    ingestion = ingest(project, log, lake, leader.sink)
    assert store.position(VIEW) == ingestion.position
    compare(project, lake, store)


def test_parity_leaves_out_a_prediction_whose_events_are_not_in_the_table_yet(
    project, log, lake, store, contract
):
    leader = Leader(project, contract, log, lake, store)
    send(log, clicks_until(now_micros(), 60, seed=2))
    leader.lead()
    at = now_micros()
    (row,), (positions,) = store.lookup(PLAN, [{"user": 1}], at)[:2]
    names = [f"{feature.view}__{feature.name}" for feature in PLAN.features]
    served = [ServedPrediction("1", at, {"user": 1}, dict(zip(names, row, strict=True)), positions)]
    report = check_parity(project, lake, PLAN, served)
    assert (report.checked, report.differing) == (0, [])
    assert report.not_checkable == {"activity: its events are not in the table of clicks yet": 1}
    ingest(project, log, lake, leader.sink)
    report = check_parity(project, lake, PLAN, served)
    assert (report.checked, report.equal, report.not_checkable) == (1, 1, {})


RUN = """
    import threading
    from pathlib import Path
    from headrace import lake, log
    from headrace.config.settings import load_settings
    from headrace.projects.project import load_project
    from headrace.events.ingest.ingest import Ingest
    from headrace.features import online
    from headrace.features.online.follow import OnlineSink
    settings = load_settings(Path({root!r}))
    project = load_project(settings)
    contract = project.contract("clicks")
    tables = lake.open(settings)
    sink = OnlineSink(project, contract, online.open(settings), tables)
    Ingest(contract, log.open(settings.log.url), tables, [sink]).run(False, threading.Event())
"""


@pytest.mark.parametrize("point", ["ingest.led", "lake.before_commit", "lake.after_commit"])
def test_a_process_killed_twice_while_it_leads_loses_and_repeats_nothing(
    project, log, lake, store, contract, point, caplog
):
    for seed in range(2):
        environment = {**os.environ, "HEADRACE_FAULT": f"{point}:3"}
        code = textwrap.dedent(RUN).format(root=str(project.settings.root))
        with subprocess.Popen([sys.executable, "-c", code], env=environment) as process:

            def send_until_killed(process=process, seed=seed):
                send(log, clicks_until(now_micros(), 10, seed=seed + 2))
                return process.poll() is not None

            until(send_until_killed, "the process reaches the point")
        assert process.returncode == -9
        if point != "lake.after_commit":
            ahead, committed = store.position(VIEW), read_position(lake.table("clicks"))
            assert sum(ahead.offsets.values()) > sum(committed.offsets.values())
            assert leads_of(ahead)
    ingestion = ingest(project, log, lake, OnlineSink(project, contract, store, lake))
    assert [store.position(view).offsets for view in PLAN.windowed] == [ingestion.position.offsets] * 2
    assert "filled again" not in caplog.text
    compare(project, lake, store)


def test_a_running_ingest_leads_and_commits_what_it_led(project, log, lake, store, contract):
    stop = threading.Event()
    sink = OnlineSink(project, contract, store, lake)
    ingestion = Ingest(contract, logs.open(project.settings.log.url), lake, [sink])
    thread = threading.Thread(target=ingestion.run, args=(False, stop))
    thread.start()

    def has_led():
        send(log, clicks_until(now_micros(), 10, seed=2))
        return leads_of(store.position(VIEW))

    until(has_led, "a view leads")
    stop.set()
    thread.join(60)
    assert read_position(lake.table("clicks")) == store.position(VIEW)  # without leads
    send(log, clicks_until(now_micros(), 10, seed=3))
    ingest(project, log, lake, OnlineSink(project, contract, store, lake))
    compare(project, lake, store)


def test_a_digest_is_that_of_the_events_in_any_order_and_of_no_others(project, log, lake, contract):
    rows = good_rows(lake.table("clicks"), sink_schema(contract)).collect()
    digests = digest_events(rows)
    assert set(digests) == {0, 1}
    assert digest_events(rows.sample(fraction=1.0, shuffle=True, seed=3)) == digests
    other = rows.with_columns(price=pl.when(pl.int_range(pl.len()) == 7).then(1.25).otherwise("price"))
    assert digest_events(other) != digests
    assert digest_events(rows[1:]) != digests
    in_memory = Judge(contract).judge(log.read("clicks", {0: 0, 1: 0}, 1_000)).good_rows
    assert digest_events(pl.DataFrame(in_memory)) == digests


@pytest.mark.parametrize("online_address", ["sqlite"], indirect=True)
def test_a_lead_of_every_type_is_confirmed(project, log, lake, store, caplog):
    """The rows are the same in memory and in the table."""
    events = project.settings.root / "small" / "events.py"
    events.write_text(events.read_text() + WIDE)
    project = load_project(project.settings)
    contract = project.contract("wide")
    view = replace(
        VIEW,
        topic="wide",
        table="wide",
        rowwise=None,
        columns=VIEW.columns[1:],
        aggregations=VIEW.aggregations[2:],
    )
    log.create("wide")
    sink = OnlineSink(project, contract, store, lake)
    for price in (1.5, 2.5):
        ingestion = Ingest(contract, log, lake, [sink])
        now = from_micros(now_micros()).isoformat()
        many = {
            "amounts": ["1.25", "7"],
            "part": {"size": 1.5, "tags": ["a", None]},
            "blob": "aGk=",
            "day": "2026-02-28",
        }
        event = {
            "at": now,
            "user": 1,
            "price": price,
            "kind": "b",
            "amount": "12.50",
            "any": {"x": [1]},
            **many,
        }
        log.append(
            "wide", [json.dumps(event).encode(), json.dumps({"at": now, "user": 2, "price": 0.5}).encode()]
        )
        if price == 1.5:
            ingestion.run(True, threading.Event())
            fill(project, lake, plan_of(view), store)
    position = read_position(lake.table("wide"))
    sink.confirm(position)
    batch = log.read("wide", position.offsets, 10)
    verdicts = Judge(contract).judge(batch)
    assert verdicts.refused == {}
    sink.lead([verdicts.good_rows], position, position.with_offsets(batch.next))
    assert leads_of(store.position(view))
    ingestion = Ingest(contract, log, lake, [OnlineSink(project, contract, store, lake)])
    ingestion.run(True, threading.Event())
    assert "filled again" not in caplog.text
    assert [row[0] for row in look_up(store, plan_of(view), [1, 2], now_micros())] == [4.0, 1.0]


def test_a_position_with_leads_is_decoded_as_it_was_encoded():
    position = LeadingPosition("clicks", "one", {0: 5, 1: 7}, {1: Lead(3, 2**64 - 1)})
    assert decode_position(encode_position(position)) == position
    assert leads_of(LogPosition("clicks", "one")) == {}
