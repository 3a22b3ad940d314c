"""Served features are computed again from the lake, at their moments and positions."""

from datetime import UTC, datetime
from functools import reduce

import msgspec
import polars as pl
import pytest
from tests.features.checks.served import serve_requests
from tests.features.online.clicks import FACTS, RATIO, activity, clicks_until, ingest, plan_of, send
from tests.features.views import DAY, MINUTE

from headrace.features.checks.events_behind import find_events_behind
from headrace.features.checks.parity import ParityReport, check_parity
from headrace.features.checks.recompute import ServedPrediction
from headrace.features.online import RowPosition, StreamPosition
from headrace.features.online.backfill import fill
from headrace.features.online.follow import OnlineSink
from headrace.features.online.lookup import Lookup
from headrace.features.plan import OnDemandInput, OnDemandView, PlanField
from headrace.features.values.conversion import decode_fields
from headrace.kernel.time import now_micros
from headrace.tables.build import build_table


@pytest.fixture
def plan():
    return plan_of(
        activity(),
        activity("twice", "doubled"),
        FACTS,
        RATIO,
        request=(PlanField("price", "float64"),),
        missing={"facts__most": 7},
    )


@pytest.fixture
def predictions(project, log, lake, store, plan):
    """Predictions before, between and after batches with many late events."""
    sink = OnlineSink(project, project.contract("clicks"), store, lake)
    log.create("clicks", 2)
    send(log, clicks_until(now_micros(), 200))
    ingest(project, log, lake, sink)
    for name in ("clean", "facts"):
        build_table(project, lake, project.table(name), code="1")
    fill(project, lake, plan, store)
    lookup, predictions = Lookup(plan, store), []
    for step in range(3):
        predictions += serve_requests(lookup, now_micros())
        send(log, clicks_until(now_micros(), 40, seed=step))
        ingest(project, log, lake, sink)
    return [*predictions, *serve_requests(lookup, now_micros())]


def test_served_features_equal_recomputed_features(project, lake, plan, predictions):
    report = check_parity(project, lake, plan, predictions)
    assert (report.checked, report.equal, report.differing, report.not_checkable) == (28, 28, [], {})


@pytest.mark.parametrize(("offsets", "memory"), [(7, 1 << 30), (50, 1_000)])
def test_the_log_is_read_in_batches_and_the_rows_are_computed_by_parts(
    project, lake, plan, predictions, monkeypatch, offsets, memory
):
    monkeypatch.setattr("headrace.features.checks.recompute._EVENTS", offsets)
    monkeypatch.setattr("headrace.config.features.FeatureSettings.join_bytes", memory)
    report = check_parity(project, lake, plan, predictions)
    assert (report.checked, report.equal, report.differing, report.not_checkable) == (28, 28, [], {})


def test_reports_of_parts_join_into_the_report_of_all(project, lake, plan, predictions):
    served = [*predictions, ServedPrediction("none", predictions[0].at, {"user": 1}, {}, {})]
    served[3] = msgspec.structs.replace(served[3], values=served[3].values | {"facts__most": -1.0})
    whole = check_parity(project, lake, plan, served)
    parts = [check_parity(project, lake, plan, served[n : n + 7]) for n in range(0, len(served), 7)]
    assert reduce(ParityReport.join, parts) == whole
    assert (whole.values_differing, whole.checked, whole.equal) == (1, 28, 27)


def test_a_fill_at_an_older_snapshot_restores_its_values(project, lake, store, plan, predictions):
    older = lake.table("facts").current_snapshot().id
    lookup, at = Lookup(plan, store), now_micros()
    before = str([prediction.values for prediction in serve_requests(lookup, at)])
    rows = lake.table("facts").scan().with_columns(pl.col("most") + 1000).collect()
    lake.table("facts").overwrite(rows.to_arrow(compat_level=pl.CompatLevel.oldest()))
    fill(project, lake, plan, store)
    assert str([prediction.values for prediction in serve_requests(lookup, at)]) != before
    fill(project, lake, plan, store, at={"facts": older})
    assert str([prediction.values for prediction in serve_requests(lookup, at)]) == before
    assert store.position(plan.as_of[0]).snapshot_id == older


def test_a_wrong_value_and_a_wrong_position_differ(project, lake, plan, predictions):
    last = predictions[-7]
    wrong = ServedPrediction(
        "wrong", last.at, last.keys, {**last.values, "activity__n_1h": 99.0}, last.positions, last.request
    )
    early = {**last.positions, "activity": StreamPosition({0: 1, 1: 1})}
    misplaced = ServedPrediction("early", last.at, last.keys, last.values, early, last.request)
    report = check_parity(project, lake, plan, [wrong, misplaced, last])
    assert report.equal == 1
    assert {(difference.id, difference.column) for difference in report.differing} >= {
        ("wrong", "activity__n_1h"),
        ("early", "activity__n_1h"),
    }


def test_a_prediction_that_cannot_be_checked_has_a_reason(project, lake, plan, predictions):
    prediction = predictions[0]
    gone = ServedPrediction(
        "gone",
        prediction.at,
        prediction.keys,
        prediction.values,
        {**prediction.positions, "facts": RowPosition(12345, prediction.at)},
        prediction.request,
    )
    without = ServedPrediction(
        "without", prediction.at, prediction.keys, prediction.values, {}, prediction.request
    )
    report = check_parity(project, lake, plan, [gone, without, prediction])
    assert (report.checked, report.equal) == (1, 1)
    assert sorted(report.not_checkable.values()) == [1, 1]
    assert any("12345" in reason for reason in report.not_checkable)


def test_values_that_are_infinite_to_the_model_are_missing_on_both_sides(
    project, lake, store, plan, predictions
):
    request = {"user": 1, "price": 1e45}  # finite as float64, infinite as float32
    at = now_micros()
    answers = Lookup(plan, store).features([request], at)
    assert "ratio__of_most" in answers.missing[0]
    values = dict(zip(Lookup(plan, store).columns, answers.values[0], strict=True))
    prediction = ServedPrediction("one", at, {"user": 1}, values, answers.positions[0], {"price": 1e45})
    assert check_parity(project, lake, plan, [prediction]).differing == []
    as_infinity = ServedPrediction(
        "two", at, {"user": 1}, {**values, "ratio__of_most": 1e45}, prediction.positions, prediction.request
    )
    (difference,) = check_parity(project, lake, plan, [as_infinity]).differing
    assert (difference.column, difference.recomputed) == ("ratio__of_most", None)


def test_features_of_an_edited_rowwise_function_are_counted_separately(project, lake, plan, predictions):
    activity_view = msgspec.structs.replace(plan.view("activity"), code="another")
    views = [activity_view if view.name == "activity" else view for view in plan.views]
    edited = msgspec.structs.replace(plan, views=tuple(views))
    wrong = msgspec.structs.replace(
        predictions[0], id="wrong", values={**predictions[0].values, "activity__n_1h": 99.0}
    )
    report = check_parity(project, lake, edited, [*predictions, wrong])
    assert (report.code_changed, report.checked, report.differing, report.not_checkable) == (29, 0, [], {})
    # The features of other views are compared.
    other = msgspec.structs.replace(
        predictions[0], id="other", values={**predictions[0].values, "facts__most": 99.0}
    )
    assert [d.column for d in check_parity(project, lake, edited, [other]).differing] == ["facts__most"]


def test_a_function_that_fails_again_makes_its_prediction_not_checkable(project, lake, plan, predictions):
    failing = OnDemandView(
        "ratio",
        (OnDemandInput("price"),),
        (PlanField("of_most", "float64"),),
        "python",
        "f",
        "def f(given):\n    return {'of_most': [1 / (one - 4.0) and None for one in given['price']]}\n",
    )
    other = msgspec.structs.replace(plan, views=(*plan.views[:-1], failing))
    report = check_parity(project, lake, other, predictions)
    assert (sum(report.not_checkable.values()), report.checked) == (4, 24)  # user 1 of each round asks for 4.0
    assert all("ratio" in reason and "ZeroDivisionError" in reason for reason in report.not_checkable)


def test_a_logged_request_is_read_by_its_declared_types():
    dtypes = {"when": "timestamp", "price": "float64", "ids": "list[int64]", "old": "bool"}
    fields = [PlanField(name, dtype) for name, dtype in dtypes.items()]
    logged = msgspec.json.decode(b'{"when": "2026-01-01T12:00:00Z", "price": 3, "ids": [1]}')
    assert decode_fields(fields, logged) == {
        "when": datetime(2026, 1, 1, 12, tzinfo=UTC),
        "price": 3.0,
        "ids": [1],
        "old": None,
    }


def test_the_events_behind_a_value(project, log, lake, store):
    view = activity("twice")
    plan = plan_of(view)
    log.create("clicks", 2)
    now = now_micros()
    send(log, [(1, now - MINUTE, 5.0), (1, now - MINUTE, 0.5), (2, now - MINUTE, 5.0), (1, now - 3 * DAY, 5.0)])
    ingest(project, log, lake)
    fill(project, lake, plan, store)
    at = now_micros()
    position = store.lookup(plan, [{"user": 1}], at).positions[0][view.name]
    send(log, [(1, now - 2 * MINUTE, 7.0)])  # late: it was not known then
    ingest(project, log, lake)
    behind = find_events_behind(project, lake, view, {"user": 1}, at, position)
    events = behind.events[behind.event_of_row.unique()]
    assert events.select("user", "price").to_dicts() == [{"user": 1, "price": 5.0}]
    assert events.columns[-4:] == ["_log_partition", "_log_offset", "_arrived_at", "_known_at"]
