"""Served features are compared with those of a training set, and each difference has its reason."""

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.features.checks.served import serve_requests
from tests.features.online.clicks import FACTS, RATIO, activity, ingest, plan_of, send
from tests.features.views import HOUR, MINUTE, instant

from headrace.features.checks.delays import AsOfReasons, DelayCounts
from headrace.features.checks.recompute import ServedPrediction
from headrace.features.checks.skew import SkewCheck
from headrace.features.offline.windows import aggregate
from headrace.features.online import RowPosition
from headrace.features.online.backfill import fill
from headrace.features.online.follow import OnlineSink
from headrace.features.online.lookup import Lookup
from headrace.features.plan import AsOfView, PlanField
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.properties import HISTORY
from headrace.kernel.time import from_micros, now_micros
from headrace.tables.build import build_table
from headrace.training.training_set import table_reader

SECOND = 1_000_000
LEAST = 1_000  # bytes


@pytest.fixture
def plan():
    return plan_of(activity(), FACTS, RATIO, request=(PlanField("price", "float64"),))


@pytest.fixture
def sink(project, log, lake, store, plan):
    """The online store's sink, with the plan's views filled from clicks of six users, two hours ago."""
    log.create("clicks", 2)
    now = now_micros()
    send(
        log,
        [(user, now - 2 * HOUR - minute * MINUTE, 5.0 + minute) for user in range(6) for minute in range(4)],
    )
    sink = OnlineSink(project, project.contract("clicks"), store, lake)
    ingest(project, log, lake, sink)
    build(project, lake)
    fill(project, lake, plan, store)
    return sink


def build(project, lake, *names):
    for name in names or ("clean", "facts"):
        build_table(project, lake, project.table(name), code="1")


def skew(project, lake, plan, served, code="1"):
    inputs = {view.table: lake.table(view.table).current_snapshot().id for view in plan.stored}
    codes = {"facts": lambda snapshot: "1" if snapshot else code}
    check = SkewCheck(project, lake, plan, table_reader(project, lake, inputs), codes)
    check.add(served)
    report = check.report()
    # In parts, the report is the same.
    in_parts = SkewCheck(project, lake, plan, table_reader(project, lake, inputs), codes)
    for first in range(0, len(served), 2):
        in_parts.add(served[first : first + 2])
    assert in_parts.report() == report
    # And so it is where each part, piece and range holds a few rows.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headrace.config.features.FeatureSettings.join_bytes", LEAST)
        patch.setattr("headrace.features.checks.recompute._EVENTS", 7)
        in_least_memory = SkewCheck(project, lake, plan, table_reader(project, lake, inputs), codes)
        in_least_memory.add(served)
    assert in_least_memory.report() == report
    return report


def reasons(report):
    return {name: view.reasons for name, view in report.views.items()}


def test_hour_late_events_are_no_skew_because_training_counts_what_was_known(
    project, log, lake, store, plan, sink
):
    """The training set leaves out what serving could not have; by event time alone it would have it."""
    served = []
    for _ in range(3):
        at = now_micros()
        served += serve_requests(Lookup(plan, store), at)
        send(log, [(user, at - 30 * MINUTE, 7.0) for user in range(6)])  # arrives after the prediction
        ingest(project, log, lake, sink)
    build(project, lake, "clean")
    report = skew(project, lake, plan, served)
    assert (report.predictions, report.equal) == (21, 21)
    assert reasons(report) == {"activity": {}, "facts": {}, "ratio": {}}
    rows = pl.DataFrame({"user": [p.keys["user"] for p in served], "at": [from_micros(p.at) for p in served]})
    rows = rows.with_columns(pl.col("at").cast(pl.Datetime("us", "UTC")))
    by_time = aggregate(activity(), rows, lake.table("clean").scan(), at="at")["n_1h"].to_list()
    differing = [p.id for p, n in zip(served, by_time, strict=True) if p.values["activity__n_1h"] != n]
    assert len(differing) == 18  # every known user, at each of the three moments


def test_events_that_the_store_did_not_have_yet_are_online_lag(project, log, lake, store, plan, sink):
    send(log, [(1, now_micros() - MINUTE, 7.0)])
    ingest(project, log, lake)  # without the sink
    served = serve_requests(Lookup(plan, store), now_micros())
    build(project, lake, "clean")
    report = skew(project, lake, plan, served)
    assert reasons(report)["activity"] == {"online lag": 1}
    (example,) = report.examples[:1]
    assert (example.id, example.column) == (served[1].id, "activity__n_1h")
    assert (example.served, example.trained) == (0.0, 1.0)


def test_events_loaded_as_history_after_the_prediction_are_late(project, log, lake, store, plan, sink):
    at = now_micros()
    served = serve_requests(Lookup(plan, store), at)
    value = json.dumps({"at": from_micros(at - MINUTE).isoformat(), "user": 2, "price": 9.0}).encode()
    log.append("clicks", [value], [b"2"], headers=[{HISTORY: b"1"}])
    ingest(project, log, lake, sink)
    build(project, lake, "clean")
    assert reasons(skew(project, lake, plan, served))["activity"] == {"late event": 1}


def test_a_rowwise_table_behind_its_topic_is_not_yet_built(project, log, lake, store, plan, sink):
    send(log, [(1, now_micros() - MINUTE, 7.0)])
    ingest(project, log, lake, sink)
    served = serve_requests(Lookup(plan, store), now_micros())
    assert reasons(skew(project, lake, plan, served))["activity"] == {"table not yet built": 1}
    build(project, lake, "clean")
    assert skew(project, lake, plan, served).equal == 7


def test_a_row_with_other_values_is_changed_and_its_dependents_too(project, log, lake, store, plan, sink):
    served = serve_requests(Lookup(plan, store), now_micros())
    rows = lake.table("facts").scan().with_columns(most=pl.col("most") + (pl.col("user") == 3)).collect()
    lake.table("facts").overwrite(rows.to_arrow(compat_level=pl.CompatLevel.oldest()))
    assert reasons(skew(project, lake, plan, served)) == {
        "activity": {},
        "facts": {"row changed": 1},
        "ratio": {"row changed": 1},
    }
    assert reasons(skew(project, lake, plan, served, code="2"))["facts"] == {"code changed": 1}


def test_an_edited_function_is_named_before_any_other_reason(project, log, lake, store, plan, sink):
    served = serve_requests(Lookup(plan, store), now_micros())
    wrong = [replace(p, values={**p.values, "activity__n_1h": 99.0}) for p in served]
    views = tuple(replace(view, code="other") if view.name == "activity" else view for view in plan.views)
    assert reasons(skew(project, lake, replace(plan, views=views), wrong))["activity"] == {"code changed": 7}
    assert reasons(skew(project, lake, plan, wrong))["activity"] == {"unexplained": 7}
    without_store = [replace(p, positions={}) for p in wrong]
    assert reasons(skew(project, lake, plan, without_store))["activity"] == {"no position": 7}


def test_a_table_that_is_built_late_gets_the_delay_that_makes_it_equal(project, lake, store):
    """Each day's row is in the table two hours after its time; a prediction comes every three hours."""
    view = AsOfView("daily", ("user",), "daily", "at", (PlanField("x", "int64"),))
    plan, day = plan_of(view), 24 * HOUR
    now = now_micros()
    start = now - 3 * day
    rows = pl.DataFrame(
        {"user": [1] * 4, "at": [instant(start + n * day) for n in range(4)], "x": list(range(4))}
    ).with_columns(pl.col("user").cast(pl.Int64))
    table = lake.ensure("daily", rows.to_arrow().schema)
    table.append(rows.to_arrow())
    snapshot = table.current_snapshot().id
    store.prepare(plan)
    store.load(view, rows.to_arrow(), SnapshotPosition("daily", snapshot))
    served = [
        ServedPrediction(
            str(hour),
            start + hour * HOUR + MINUTE,
            {"user": 1},
            {"daily__x": float(hour // 24)},
            {"daily": RowPosition(snapshot, start + hour // 24 * day)},
        )
        for hour in range(3, 72, 3)
        if hour % 24  # not within the two hours in which the table lacks the day's row
    ]
    result = skew(project, lake, plan, served).views["daily"]
    assert (result.equal, result.reasons, result.better_delay) == (len(served), {}, None)
    between = ServedPrediction(
        "late", start + day + HOUR, {"user": 1}, {"daily__x": 0.0}, {"daily": RowPosition(snapshot, start)}
    )
    result = skew(project, lake, plan, [*served, between]).views["daily"]
    assert result.reasons == {"table not yet built": 1}
    assert (result.delay, result.equal_rows) == (0.0, len(served) + 1)
    assert result.better_delay == 3601.0  # one hour and the next whole second
    delayed = replace(view, delay=int(result.better_delay * SECOND))
    assert skew(project, lake, plan_of(delayed), [*served, between]).equal == len(served) + 1
    too_long = skew(project, lake, plan_of(replace(view, delay=12 * HOUR)), served).views["daily"]
    assert set(too_long.reasons) == {"delay too long"}
    assert too_long.better_delay is not None


times = st.lists(st.integers(0, 30), min_size=1, max_size=5, unique=True)


@settings(max_examples=200)
@given(
    times=times,
    served=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), min_size=1, max_size=6),
    delay=st.integers(0, 10),
    ttl=st.one_of(st.none(), st.integers(15, 40)),
    strict=st.booleans(),
)
def test_the_delay_is_the_smallest_with_which_most_predictions_see_their_row(times, served, delay, ttl, strict):
    """All instants are whole seconds; the oracle tries each delay by the definition of visibility."""
    view = AsOfView(
        "facts", ("user",), "facts", "at", (PlanField("x", "int64"),), None if ttl is None else ttl * SECOND,
        delay=delay * SECOND,
    )  # fmt: skip
    rows = pl.DataFrame({"user": [1] * len(times), "at": [instant(t * SECOND) for t in times], "x": times})
    choices = [None, *sorted(times)]
    predictions = [
        (at, row)
        for at, place in served
        for row in [choices[place % len(choices)]]
        if row is None or (row <= at - strict and (ttl is None or row >= at - ttl))
    ]

    def visible(at, lag):
        seen = [t for t in times if (t + lag < at if strict else t + lag <= at)]
        seen = [t for t in seen if ttl is None or t >= at - ttl]
        return max(seen, default=None)

    reasons_of_rows = AsOfReasons(
        view,
        rows.lazy(),
        [
            ServedPrediction("", at * SECOND, {"user": 1}, {}, {"facts": RowPosition(1, row and row * SECOND)})
            for at, row in predictions
        ],
        lambda _: None,
        strict=strict,
    )
    counted = DelayCounts(view.delay)
    for index in range(len(predictions)):
        counted.add(reasons_of_rows.delay_limits([index]))
    result = counted.choose()
    counts = {lag: sum(visible(at, lag) == row for at, row in predictions) for lag in range(60)}
    best = max(counts.values())
    if counts[delay] == best:
        assert (result.better, result.equal) == (None, best)
    else:
        assert (result.better, result.equal) == (min(lag for lag in counts if counts[lag] == best), best)
