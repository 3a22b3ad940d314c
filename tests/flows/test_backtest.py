"""backtest: logged requests answered by the same version, another one, and one with features of a new view."""

from __future__ import annotations

import threading
from contextlib import closing
from datetime import timedelta

import msgspec
import numpy as np
import polars as pl
import pytest
from tests.serving.running import run_endpoint, ship_predictions
from tests.serving.small_project import (
    DAY,
    fit_booster,
    make_project,
    plan_of,
    put_bundle,
    put_features,
    put_release,
)

from headrace import log
from headrace.declare.event import contract_of
from headrace.events.ingest.ingest import Ingest
from headrace.features.plan import AggregateFunction, Aggregation, FeatureRef, PlanField, WindowedView
from headrace.flows.models.backtest import backtest
from headrace.kernel.errors import CallError
from headrace.kernel.time import micros, now
from headrace.serving.prediction import Prediction
from headrace.serving.release import Arm
from headrace.training.evaluation.binary import BinaryEvaluator
from headrace.training.files import REPORT
from headrace.training.gate import judge
from headrace.training.report import TrainingReport, TrainingSet, write_report
from headrace.training.trainers.folder import load_model
from headrace.workspace import Workspace

PRODUCTS = {product: (float(product), product * 9) for product in range(20)}
CLICKS = WindowedView(
    "recent",
    ("user_id",),
    "clicks",
    "clicks",
    None,
    "at",
    (PlanField("page", "int64"),),
    (Aggregation("clicks", "page", AggregateFunction("count"), DAY, DAY // 24, "int64"),),
)


def plan_with_clicks():
    plan = plan_of()
    features = (plan.features[1], FeatureRef("recent", "clicks", "int64"))
    return msgspec.structs.replace(plan, views=(*plan.views, CLICKS), features=features)


def put_version(settings, boosters, version, plan, slope):
    from headrace import registry
    from headrace.registry.bundle import seal
    from headrace.registry.signing import signing_key

    bundle = put_bundle(settings, boosters, version, plan, slope)
    evaluation = BinaryEvaluator().evaluate([0, 1], [0.2, 0.8])
    report = TrainingReport(
        model="purchase",
        task="binary",
        run="r",
        code="c0de",
        training_set=TrainingSet("purchase", "t", 1, {}, plan.digest, 4, 0),
        parts={"train": 2, "validation": 1, "test": 1, "dropped": 0},
        boundaries={},
        split="by time",
        parameters={},
        trials=[],
        validation=evaluation,
        test=evaluation,
        champion=None,
        importance={},
        gate=judge([], evaluation.metrics, None),
    )
    assert (bundle / REPORT).name == "training.json"
    write_report(bundle, report)
    seal(bundle, signing_key(settings))
    return registry.open(settings).bundle("purchase", version)


def put_clicks(settings, clicks):
    with closing(log.open(settings.log.url)) as topics:
        topics.create("clicks")
        topics.append("clicks", [msgspec.json.encode(click) for click in clicks])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A project whose version 1 answered requests: single ones, several at once, with gaps, with given ones."""
    settings = make_project(tmp_path_factory.mktemp("backtest") / "p")
    events = settings.root / "small" / "events.py"
    events.write_text(events.read_text() + "    page: int\n")
    boosters = {1: fit_booster(1), -1: fit_booster(-1)}
    put_version(settings, boosters, 1, plan_of(), 1)
    put_version(settings, boosters, 2, plan_of(), -1)
    put_version(settings, boosters, 3, plan_with_clicks(), 1)
    put_version(settings, boosters, 4, plan_of(missing="refuse"), 1)
    put_features(settings, plan_of(), PRODUCTS)
    put_release(settings, Arm(1))
    moment = now()
    clicks = [
        {"at": moment - timedelta(minutes=minute), "user_id": minute % 3, "page": 1} for minute in range(1, 60)
    ]
    put_clicks(settings, clicks)
    with run_endpoint(settings) as client:
        for product in range(22):  # two are not known
            body = {"user_id": product % 4, "product_id": product, "price": 3.5}
            assert client.post("/predict/purchase", json=body).status_code == 200
        several = [{"user_id": 3, "product_id": product, "price": 1.25} for product in range(5)]
        assert client.post("/predict/purchase", json={"instances": several}).status_code == 200
        given = {"user_id": 3, "product_id": 5, "price": 1.0, "facts__views": 7}
        assert client.post("/predict/purchase", json=given).status_code == 200
    predictions = ship_predictions(settings)
    put_clicks(settings, clicks[:7])  # late: nobody knew them at the requests
    with Workspace(settings) as workspace:
        for contract in (contract_of(Prediction), workspace.project.contract("clicks")):
            Ingest(contract, workspace.log, workspace.lake).run(True, threading.Event())
    return settings, predictions


def test_the_same_version_answers_equally_to_the_last_bit(small):
    settings, predictions = small
    with Workspace(settings) as workspace:
        report = backtest(workspace, "purchase", 1)
    (part,) = report.slices
    assert (part.requests, part.equal, part.decisions_changed) == (28, 28, 0)
    assert (part.mean_difference, part.greatest_difference, report.left_out) == (0, 0, {})
    assert sorted(report.rows["id"]) == sorted(prediction.id for prediction in predictions)


def test_another_version_answers_by_the_served_features(small):
    settings, predictions = small
    with Workspace(settings) as workspace:
        report = backtest(workspace, "purchase", 2, by="user_id")
        model = load_model(workspace.registry.bundle("purchase", 2) / "model")
    matrix = [
        [np.nan if value is None else value for value in prediction.features.values()]
        for prediction in predictions
    ]
    expected = dict(zip([p.id for p in predictions], model.predict(np.array(matrix, np.float32)), strict=True))
    assert {row["id"]: row["replayed"] for row in report.rows.iter_rows(named=True)} == expected
    changed = sum((expected[p.id] >= 0.5) != (p.value >= 0.5) for p in predictions)
    assert report.slices[0].decisions_changed == changed > 10
    users = {str(user): sum(p.entity["user_id"] == user for p in predictions) for user in range(4)}
    assert {part.name: part.requests for part in report.slices[1:]} == users
    assert sum(part.decisions_changed for part in report.slices[1:]) == changed


def test_a_new_view_is_joined_as_it_was_known_at_each_moment(small):
    settings, predictions = small
    with Workspace(settings) as workspace:
        report = backtest(workspace, "purchase", 3)
        model = load_model(workspace.registry.bundle("purchase", 3) / "model")
        events = workspace.lake.table("clicks").scan().filter("_valid").collect()
    known = [
        (micros(row["at"]), micros(row["_known_at"]), row["user_id"]) for row in events.iter_rows(named=True)
    ]
    assert len(known) == 66
    expected, counts = {}, set()
    for prediction in predictions:
        at = micros(prediction.at)
        begin = (at - DAY) // (DAY // 24) * (DAY // 24)
        user = prediction.entity["user_id"]
        count = sum(begin <= t < at and seen < at and key == user for t, seen, key in known)
        counts.add(count)
        views = prediction.features["facts__views"]
        row = np.array([[np.nan if views is None else views, count]], np.float32)
        expected[prediction.id] = float(model.predict(row)[0])
    assert {row["id"]: row["replayed"] for row in report.rows.iter_rows(named=True)} == expected
    assert report.left_out == {}
    assert counts == {0, 19, 20}


def test_what_a_version_would_refuse_is_left_out_and_counted(small):
    settings, _ = small
    with Workspace(settings) as workspace:
        report = backtest(workspace, "purchase", 4)
    assert report.left_out == {"missing features": 2}
    assert (report.slices[0].requests, report.slices[0].equal) == (26, 26)


def test_a_wrong_question_is_answered_with_what_exists(small):
    settings, predictions = small
    with Workspace(settings) as workspace:
        with pytest.raises(CallError, match="no prediction of model 'purchase' from this time"):
            backtest(workspace, "purchase", 1, since=predictions[-1].at + timedelta(days=1))
        with pytest.raises(CallError, match="no request has the field 'colour'") as caught:
            backtest(workspace, "purchase", 1, by="colour")
        assert "product_id" in str(caught.value)
        newest = backtest(workspace, "purchase", 1, limit=3)
        assert newest.slices[0].requests == 3
        assert newest.rows["at"].min() >= pl.Series(sorted(p.at for p in predictions))[-3]
