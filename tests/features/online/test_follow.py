"""From the log to served features, with the real log, ingest, lake and online store."""

import os
import subprocess
import sys
import textwrap
import threading
from time import monotonic, sleep

import msgspec
import polars as pl
import pytest
from tests.features.online.clicks import FACTS, RATIO, activity, clicks_until, ingest, look_up, plan_of, send
from tests.features.views import DAY, HOUR, MINUTE

from headrace import lake as lakes
from headrace import log as logs
from headrace.code.index import CodeIndex
from headrace.events.ingest.hooks import IngestHooks
from headrace.events.ingest.ingest import Ingest
from headrace.events.ingest.sinks import sink_schema
from headrace.features.checks.recompute import ServedPrediction, recompute
from headrace.features.feast import TableSource
from headrace.features.offline.point_in_time import join
from headrace.features.offline.rowwise import codes_of, rows_of
from headrace.features.online.backfill import fill
from headrace.features.online.follow import OnlineSink
from headrace.features.online.lookup import Lookup
from headrace.features.plan import (
    AsOfView,
    PlanField,
)
from headrace.kernel.errors import CallError, ProjectError, Unavailable
from headrace.kernel.time import from_micros, now_micros
from headrace.projects.loader import project_files
from headrace.projects.project import load_project
from headrace.tables.build import build_table
from headrace.tables.read import read_input


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def online_address(request):
    if request.param == "redis":
        return request.getfixturevalue("empty_redis")
    return "sqlite" if request.param == "sqlite" else request.getfixturevalue("empty_database")


def offline(project, lake, view, users, at):
    """The features from the lake's events, in plain Python."""
    rows = lake.table("clicks").scan().filter(pl.col("_valid")).collect().rows(named=True)
    expected = []
    for user in users:
        mine = [
            (r["at"], r["price"])
            for r in rows
            if r["user"] == user and r["price"] > 1 and r["at"] < from_micros(at)
        ]
        factor = 2 if view.rowwise == "twice" else 1

        def since(window, hop, mine=mine):
            return sorted(click for click in mine if click[0] >= from_micros((at - window) // hop * hop))

        day = since(DAY, HOUR)
        cents = sum(int(price * 100) for _, price in day) if factor == 1 else 0
        spent = sum(price for _, price in day) * factor
        expected.append(
            [
                len(since(HOUR, 5 * MINUTE)) * factor,
                cents if day else None,
                pytest.approx(spent, rel=1e-12) if day else None,
                day[-1][1] if day else None,
            ]
        )
    return expected


@pytest.mark.parametrize("rowwise", ["clean", "twice"])
def test_a_view_is_filled_and_then_follows_the_stream(project, log, lake, store, rowwise):
    view, users = activity(rowwise), list(range(7))
    plan = plan_of(view)
    start = now_micros()
    log.create("clicks", 2)
    send(log, clicks_until(start, 400))
    sink = OnlineSink(project, project.contract("clicks"), store, lake)
    ingest(project, log, lake, sink)  # no view yet: the sink has nothing to do
    filled = fill(project, lake, plan, store)
    assert [result.entities for result in filled] == [6]
    at = now_micros()
    assert look_up(store, plan, users, at) == offline(project, lake, view, users, at)
    for step in range(3):
        send(log, clicks_until(now_micros(), 60, seed=step))
        ingestion = ingest(project, log, lake, sink)
        assert store.position(view) == ingestion.position
        at = now_micros()
        assert look_up(store, plan, users, at) == offline(project, lake, view, users, at)
    assert [result.rows for result in fill(project, lake, plan, store)] == [0]


def test_a_sink_catches_up_views_at_different_positions(project, log, lake, store):
    first, second = activity(), activity("twice", "second")
    log.create("clicks", 2)
    send(log, clicks_until(now_micros(), 100))
    ingest(project, log, lake)
    fill(project, lake, plan_of(first), store)
    send(log, clicks_until(now_micros(), 100, seed=2))
    ingest(project, log, lake)  # without the sink
    fill(project, lake, plan_of(second), store)
    assert store.position(first) != store.position(second)
    send(log, clicks_until(now_micros(), 100, seed=3))
    ingestion = ingest(project, log, lake, OnlineSink(project, project.contract("clicks"), store, lake))
    assert store.position(first) == store.position(second) == ingestion.position
    at = now_micros()
    for view in (first, second):
        assert look_up(store, plan_of(view), range(7), at) == offline(project, lake, view, range(7), at)


def test_a_view_that_moves_back_before_a_batch_is_fed_from_the_table(project, log, lake, store):
    """A build fills a view from an older position, or a server was restarted without its last changes."""
    view, contract = activity(), project.contract("clicks")
    plan = plan_of(view)
    log.create("clicks", 1)
    send(log, clicks_until(now_micros(), 100))
    ingest(project, log, lake)
    fill(project, lake, plan, store)
    before = store.position(view)
    rows = rows_of(project, [view])(read_input(project, lake, contract))[0].to_arrow()
    send(log, clicks_until(now_micros(), 100, seed=2))
    ingest(project, log, lake, OnlineSink(project, contract, store, lake))
    sink = OnlineSink(project, contract, store, lake)
    ahead = sink.position()
    store.fill(view, rows, before)
    batch = ahead.with_offsets({0: ahead.offsets[0] + 10})
    with pytest.raises(Unavailable, match="read from the topic's table"):
        sink.apply(sink_schema(contract).empty_table(), batch)
    assert store.position(view) == before
    send(log, clicks_until(now_micros(), 50, seed=3))
    ingestion = ingest(project, log, lake, sink)
    assert store.position(view) == ingestion.position
    at = now_micros()
    assert look_up(store, plan, range(7), at) == offline(project, lake, view, range(7), at)


def test_a_view_that_is_dropped_during_a_batch_stops_no_other(project, log, lake, store, monkeypatch):
    """As Feast's teardown does."""
    first, second = activity(), activity(name="second")
    log.create("clicks", 2)
    send(log, clicks_until(now_micros(), 100))
    ingest(project, log, lake)
    fill(project, lake, plan_of(first, second), store)
    send(log, clicks_until(now_micros(), 100, seed=2))
    apply = store.apply

    def drop_and_apply(views, *arguments, **options):
        store.drop(second.digest)
        apply(views, *arguments, **options)

    monkeypatch.setattr(store, "apply", drop_and_apply)
    ingestion = ingest(project, log, lake, OnlineSink(project, project.contract("clicks"), store, lake))
    assert store.position(first) == ingestion.position
    at = now_micros()
    assert look_up(store, plan_of(first), range(7), at) == offline(project, lake, first, range(7), at)


@pytest.mark.parametrize("point", ["online.apply.written", "online.apply.committed"])
def test_a_sink_killed_in_a_batch_counts_nothing_twice(project, log, lake, store, point):
    view = activity()
    log.create("clicks", 2)
    send(log, clicks_until(now_micros(), 50))
    ingest(project, log, lake)
    fill(project, lake, plan_of(view), store)
    send(log, clicks_until(now_micros(), 50, seed=2))
    code = f"""
        import threading
        from pathlib import Path
        from headrace import lake, log
        from headrace.config.settings import load_settings
        from headrace.projects.project import load_project
        from headrace.events.ingest.hooks import IngestHooks
        from headrace.events.ingest.ingest import Ingest
        from headrace.features import online
        from headrace.features.online.follow import OnlineSink
        settings = load_settings(Path({str(project.settings.root)!r}))
        project = load_project(settings)
        contract = project.contract("clicks")
        tables = lake.open(settings)
        sink = OnlineSink(project, contract, online.open(settings), tables)
        Ingest(contract, log.open(settings.log.url), tables, [sink]).run(True, threading.Event())
    """
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env={**os.environ, "HEADRACE_FAULT": point}, timeout=300
    )
    assert killed.returncode == -9
    ingest(project, log, lake, OnlineSink(project, project.contract("clicks"), store, lake))
    at = now_micros()
    assert look_up(store, plan_of(view), range(7), at) == offline(project, lake, view, range(7), at)


def test_a_lookup_converts_requests_to_the_models_matrix(project, log, lake, store):
    plan = plan_of(
        activity(), FACTS, RATIO, request=(PlanField("price", "float64"),), missing={"facts__most": 7}
    )
    log.create("clicks", 2)
    send(log, [(1, now_micros() - MINUTE, 10.0), (1, now_micros() - 2 * DAY, 20.0)])
    ingest(project, log, lake)
    for name in ("clean", "facts"):
        build_table(project, lake, project.table(name), code="1")
    lookup = Lookup(plan, store)
    with pytest.raises(CallError, match="not in the online store"):
        lookup.features([{"user": 1, "price": 5.0}], now_micros())
    fill(project, lake, plan, store)
    at = now_micros()
    answers = lookup.features([{"user": 1, "price": 5.0}, {"user": 9, "price": 5.0}], at)
    assert lookup.columns == (
        "activity__n_1h",
        "activity__cents_1d",
        "activity__spent_1d",
        "activity__last_1d",
        "facts__most",
        "ratio__of_most",
    )
    nan = pytest.approx(float("nan"), nan_ok=True)
    assert answers.matrix.tolist() == [[1.0, 1000.0, 10.0, 10.0, 20.0, 0.25], [0.0, nan, nan, nan, 7.0, nan]]
    assert answers.missing[0] == []
    assert answers.missing[1] == list(lookup.columns[1:])
    # A single request gives the same as a batch, and the offline join the same as both.
    for place, request in enumerate([{"user": 1, "price": 5.0}, {"user": 9, "price": 5.0}]):
        alone = lookup.features([request], at)
        assert repr(alone.matrix.tolist()[0]) == repr(answers.matrix.tolist()[place])
        assert alone.positions[0] == answers.positions[place]
    labels = pl.DataFrame({"user": [1, 9], "price": [5.0, 5.0], "event_timestamp": [from_micros(at)] * 2})
    tables = {name: lake.table(name).scan() for name in ("clean", "facts")}
    joined = join(labels, plan, tables.__getitem__)
    assert joined.select(lookup.columns).rows() == [
        (1, 1000, 10.0, 10.0, 20.0, 0.25),
        (0, None, None, None, None, None),
    ]
    with pytest.raises(CallError, match="lacks 'price'"):
        lookup.features([{"user": 1}], at)


def test_a_view_of_other_code_is_not_followed_until_a_new_one_is_filled(project, log, lake, store, caplog):
    """The function is edited between the fill and the ingest: its rows must not mix with the old ones."""
    contract = project.contract("clicks")
    old = msgspec.structs.replace(activity(), code=codes_of(project)["clean"])
    log.create("clicks", 2)
    send(log, clicks_until(now_micros(), 100))
    ingest(project, log, lake)
    fill(project, lake, plan_of(old), store)
    before = store.position(old)
    running = OnlineSink(project, contract, store, lake)

    tables = project.settings.root / "small" / "tables.py"
    tables.write_text(tables.read_text().replace('pl.col("price") > 1)', 'pl.col("price") > 20)'))
    edited = load_project(project.settings)
    send(log, clicks_until(now_micros(), 100, seed=2))
    with caplog.at_level("WARNING"):
        ingest(edited, log, lake, OnlineSink(edited, edited.contract("clicks"), store, lake))
    assert store.position(old) == before
    assert [record.message for record in caplog.records if "headrace build" in record.message]

    new = msgspec.structs.replace(old, code=codes_of(edited)["clean"])
    assert new.digest != old.digest
    fill(edited, lake, plan_of(new), store)
    send(log, clicks_until(now_micros(), 50, seed=3))
    ingestion = ingest(edited, log, lake, OnlineSink(edited, edited.contract("clicks"), store, lake))
    assert store.position(new) == ingestion.position
    assert store.position(old) == before

    # A process that still runs the old code continues with the old view and does not touch the new one.
    filled_to = ingestion.position
    ingestion = ingest(project, log, lake, running)
    send(log, clicks_until(now_micros(), 50, seed=4))
    ingestion = ingest(project, log, lake, running)
    assert store.position(old) == ingestion.position
    assert store.position(new) == filled_to


FRAGILE = '''
def cents_of(price: float) -> int:
    if price == 13:
        raise ValueError("unlucky")
    return int(price * 100)

@table(reads=Click, rowwise=True)
def fragile(clicks: pl.LazyFrame) -> pl.LazyFrame:
    """Fails on a price of 13."""
    return clicks.with_columns(cents=pl.col("price").map_elements(cents_of, return_dtype=pl.Int64))

@table(reads=fragile, partition_by=day("at"), rowwise=True)
def sides(clicks: pl.LazyFrame) -> pl.LazyFrame:
    """Makes two rows of each, and fails on the second of a price of 7."""
    rows = pl.concat([clicks, clicks.with_columns(price=-pl.col("price"))])
    return rows.select("user", "at", "_known_at", "cents", "price")

@table(reads=sides, partition_by=day("at"), rowwise=True)
def chained(rows: pl.LazyFrame) -> pl.LazyFrame:
    cents = pl.when(pl.col("price") == -7).then(pl.lit("none")).otherwise("cents").cast(pl.Int64)
    return rows.with_columns(cents=cents)
'''


def test_what_a_rowwise_function_fails_on_is_left_out_alike_in_tables_online_and_recomputed(
    project, log, lake, store, caplog
):
    tables = project.settings.root / "small" / "tables.py"
    tables.write_text(tables.read_text() + FRAGILE)
    project = load_project(project.settings)
    fragile, chained = activity("fragile", "fragile"), activity("chained", "chained")
    plan = plan_of(fragile, chained)
    log.create("clicks", 2)
    now = now_micros()
    send(log, [(user, now - MINUTE, price) for user in (1, 2) for price in (5.0, 13.0 if user == 1 else 7.0)])
    ingest(project, log, lake)
    filled = fill(project, lake, plan, store)
    assert [result.left_out.partition(": ")[0] for result in filled] == [
        "left out 1 row that fragile() fails on",
        "left out 2 rows that chained() fails on",
    ]
    assert "ValueError: unlucky" in filled[0].left_out
    prices = {1: [5.0, 13.0, 6.0], 2: [7.0, 7.0, 13.0]}
    send(log, [(user, now - MINUTE, price) for user in (1, 2) for price in prices[user]])
    ingestion = ingest(project, log, lake, OnlineSink(project, project.contract("clicks"), store, lake))
    assert store.position(fragile) == store.position(chained) == ingestion.position
    assert [store.count_broken(view) for view in (fragile, chained)] == [0, 0]
    assert any("left out 2 rows that fragile() fails on: clicks@" in text for text in caplog.messages)

    moment, users = now_micros(), [1, 2]
    kept = {1: [5.0, 5.0, 6.0], 2: [5.0, 7.0, 7.0, 7.0]}
    both = {user: [*mine, *(-price for price in mine if price != 7.0)] for user, mine in kept.items()}
    rows = look_up(store, plan, users, moment)
    counts = [[row[0], row[2], row[4], row[6]] for row in rows]
    assert counts == [[len(kept[user]), sum(kept[user]), len(both[user]), sum(both[user])] for user in users]
    for name in ("fragile", "sides", "chained"):
        build_table(project, lake, project.tables[name], code="1")
    labels = pl.DataFrame({"user": users, "event_timestamp": [from_micros(moment)] * 2})
    joined = join(labels, plan, lambda name: lake.table(name).scan())
    assert [list(row) for row in joined.select(f.column for f in plan.features).rows()] == rows
    positions = store.lookup(plan, [{"user": user} for user in users], moment).positions
    served = [
        ServedPrediction(str(user), moment, {"user": user}, {}, position)
        for user, position in zip(users, positions, strict=True)
    ]
    for prediction, row in zip(recompute(project, lake, plan, served), rows, strict=True):
        assert [prediction.features[f.column] for f in plan.features] == row
        assert prediction.failures == {}


def test_a_view_whose_function_fails_as_a_whole_is_not_followed(project, log, lake, store, caplog):
    tables = project.settings.root / "small" / "tables.py"
    tables.write_text(tables.read_text() + FRAGILE)
    project = load_project(project.settings)
    view = activity("fragile", "fragile")
    log.create("clicks", 2)
    send(log, [(1, now_micros() - MINUTE, 5.0)])
    ingest(project, log, lake)
    fill(project, lake, plan_of(view), store)
    filled = store.position(view)
    send(log, [(1, now_micros() - MINUTE, 13.0)] * 101)
    ingest(project, log, lake, OnlineSink(project, project.contract("clicks"), store, lake))
    assert store.position(view) == filled
    assert any(
        "no longer follows topic clicks" in text and "more than 100 rows" in text for text in caplog.messages
    )


def test_a_process_with_other_code_than_the_files_does_not_follow(project, lake, store):
    """Otherwise rows of the old code would reach the view that a build fills with the new one."""
    OnlineSink(project, project.contract("clicks"), store, lake)
    tables = project.settings.root / "small" / "tables.py"
    tables.write_text(tables.read_text().replace('pl.col("price") > 1)', 'pl.col("price") > 2)'))
    with pytest.raises(ProjectError, match="edited while this process was starting"):
        OnlineSink(project, project.contract("clicks"), store, lake)
    edited = load_project(project.settings)
    OnlineSink(edited, edited.contract("clicks"), store, lake)


def test_the_code_of_a_rowwise_table_is_the_one_that_feast_compiles_in(project):
    source = TableSource(project.tables["clean"])
    source.complete(project, CodeIndex(project_files(project.settings)))
    assert source.code == codes_of(project)["clean"]


def test_workers_that_share_a_topic_keep_one_view_level(project, lake, store):
    """Each moves the view in its log partitions and does not set it back in the others."""
    view, users = activity(), list(range(7))
    plan = plan_of(view)
    sender = logs.open(project.settings.log.url)
    sender.create("clicks", 2)
    send(sender, clicks_until(now_micros(), 200))
    ingest(project, sender, lake, OnlineSink(project, project.contract("clicks"), store, lake))
    fill(project, lake, plan, store)
    stop, threads, moved = threading.Event(), [], [set(), set()]
    for number in range(2):
        own = logs.open(project.settings.log.url)
        sink = OnlineSink(project, project.contract("clicks"), store, lake)
        worker = Ingest(project.contract("clicks"), own, lakes.open(project.settings), [sink])

        def note_partitions(progress, number=number):
            moved[number] |= progress.position.offsets.keys()

        threads.append(threading.Thread(target=worker.run, args=(False, stop, IngestHooks(note_partitions))))
        threads[-1].start()
    deadline = monotonic() + 180
    for step in range(1_000):
        send(sender, clicks_until(now_micros(), 30, seed=step))
        if moved[0] and moved[1] and step > 5:
            break
        assert monotonic() < deadline
        sleep(0.1)
    for old in ([], [(user, now_micros() - 3 * DAY, 5.0) for user in users[:-1]]):  # in no window any more
        send(sender, old)
        while store.position(view).offsets != sender.end("clicks"):
            assert monotonic() < deadline
            sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join(60)
    at = now_micros()
    assert look_up(store, plan, users, at) == offline(project, lake, view, users, at)
    # Each value has exactly the events of its entity before its position, in both log partitions. An event that
    # no window can reach changes no state, so a state's position may be before it.
    positions = store.lookup(plan, [{"user": user} for user in users], at).positions
    for user, position in zip(users, positions, strict=True):
        after = pl.any_horizontal(
            (pl.col("_log_partition") == p) & (pl.col("_log_offset") >= end)
            for p, end in position["activity"].offsets.items()
        )
        reached = pl.col("at") >= from_micros(view.earliest(at))
        later = lake.table("clicks").scan().filter(pl.col("user") == user, pl.col("price") > 1, after, reached)
        assert later.select("_log_partition", "_log_offset", "at").collect().rows() == []
    sender.close()


def test_a_view_whose_time_its_table_lacks_is_named(project, lake, store):
    rows = pl.DataFrame({"user": [1], "at": [from_micros(0)], "x": [1]}).to_arrow()
    lake.ensure("customers", rows.schema).append(rows)
    view = AsOfView("facts", ("user",), "customers", "known", (PlanField("x", "int64"),))
    with pytest.raises(
        ProjectError, match="'facts' has the timestamp_field 'known', a column that table customers"
    ):
        fill(project, lake, plan_of(view), store)
