"""backtest: logged requests answered by the same version, another one, and one with features of a new view."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from datetime import timedelta
from itertools import product

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import xgboost
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

from headrace import lake as lakes
from headrace import log
from headrace.cli.main import main
from headrace.declare.event import contract_of
from headrace.events.ingest.ingest import Ingest
from headrace.features.plan import (
    AggregateFunction,
    Aggregation,
    FeatureRef,
    OnDemandInput,
    OnDemandView,
    PlanField,
    WindowedView,
)
from headrace.flows.models.backtest import _slice_of, backtest
from headrace.flows.models.replay import LoggedRequests
from headrace.kernel.errors import CallError
from headrace.kernel.time import micros, now
from headrace.registry.bundle import seal
from headrace.registry.signing import signing_key
from headrace.serving.prediction import Prediction
from headrace.serving.release import Arm
from headrace.training.evaluation.binary import BinaryEvaluator
from headrace.training.evaluation.multiclass import MulticlassEvaluator
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
MODELS = """
from datetime import datetime
from headrace import Model, Outcomes, Struct, XGBoost, event, table
from small.events import Click

@event(topic="results", time="at")
class Result(Struct):
    at: datetime
    prediction: str
    value: KIND

@table(reads=Click)
def labels(clicks):
    return clicks

happened = Outcomes(Result, value="value", prediction="prediction")
purchase = Model(
    "purchase", labels=labels, target="bought", features=None, trainer=XGBoost(), outcomes=happened
)
"""
GAP = OnDemandView(  # fails on the price 1
    "gap",
    (OnDemandInput("price"), OnDemandInput("mean_price", "facts")),
    (PlanField("of", "float64"), PlanField("is_known", "bool")),
    "row",
    "f",
    "def f(i):\n"
    "    mean = i['mean_price']\n"
    "    part = 1 / (i['price'] - 1)\n"
    "    return {'of': None if mean is None else mean * 9 + part, 'is_known': mean is not None}\n",
)


def plan_with_gap():
    plan = plan_of()
    features = (FeatureRef("gap", "is_known", "bool"), FeatureRef("gap", "of", "float64"))
    return msgspec.structs.replace(plan, views=(*plan.views, GAP), features=features)


def plan_with_clicks():
    plan = plan_of()
    features = (plan.features[1], FeatureRef("recent", "clicks", "int64"))
    return msgspec.structs.replace(plan, views=(*plan.views, CLICKS), features=features)


def put_version(settings, boosters, version, plan, slope, classes=()):
    bundle = put_bundle(settings, boosters, version, plan, slope, classes=classes)
    if classes:
        evaluation = MulticlassEvaluator().evaluate([0, 1, 2], np.eye(3), classes)
    else:
        evaluation = BinaryEvaluator().evaluate([0, 1], [0.2, 0.8])
    report = TrainingReport(
        model="purchase",
        task="multiclass" if classes else "binary",
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


def put_events(settings, topic, events):
    with closing(log.open(settings.log.url)) as topics:
        topics.create(topic)
        topics.append(topic, [msgspec.json.encode(event) for event in events])


def ingest(settings, *topics):
    with Workspace(settings) as workspace:
        for contract in (contract_of(Prediction), *map(workspace.project.contract, topics)):
            Ingest(contract, workspace.log, workspace.lake).run(True, threading.Event())


def put_outcomes(settings, predictions, values):
    """Declares the model's outcomes, and logs that these values happened after the first predictions."""
    kind = type(values[0]).__name__
    (settings.root / "small" / "models.py").write_text(MODELS.replace("KIND", kind))
    events = [
        {"at": prediction.at + timedelta(seconds=1), "prediction": prediction.id, "value": value}
        for prediction, value in zip(predictions, values, strict=False)
    ]
    put_events(settings, "results", events)


def mean_prices(predictions):
    """Product, when its mean price changed, and to what: too long before the requests, before, and after."""
    first, last = predictions[0].at, predictions[-1].at
    for number in PRODUCTS:
        yield number, first - timedelta(days=8), 1.0
        if number % 5:
            yield number, first - timedelta(minutes=number), float(number)
        yield number, last + timedelta(minutes=1), 99.0


def put_facts(settings, predictions):
    rows = list(mean_prices(predictions))
    table = pa.table(
        {
            "product_id": pa.array([product for product, _, _ in rows], pa.int64()),
            "event_timestamp": pa.array([at for _, at, _ in rows], pa.timestamp("us", "UTC")),
            "mean_price": pa.array([price for _, _, price in rows], pa.float64()),
            "views": pa.array([0] * len(rows), pa.int64()),
        }
    )
    lakes.open(settings).ensure("facts", table.schema).append(table)


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
    put_version(settings, boosters, 5, plan_with_gap(), 1)
    put_features(settings, plan_of(), PRODUCTS)
    put_release(settings, Arm(1))
    moment = now()
    clicks = [
        {"at": moment - timedelta(minutes=minute), "user_id": minute % 3, "page": 1} for minute in range(1, 60)
    ]
    put_events(settings, "clicks", clicks)
    with run_endpoint(settings) as client:
        for product in range(22):  # two are not known
            body = {"user_id": product % 4, "product_id": product, "price": 3.5}
            assert client.post("/predict/purchase", json=body).status_code == 200
        several = [{"user_id": 3, "product_id": product, "price": 1.25} for product in range(5)]
        assert client.post("/predict/purchase", json={"instances": several}).status_code == 200
        given = {"user_id": 3, "product_id": 5, "price": 1.0, "facts__views": 7}
        assert client.post("/predict/purchase", json=given).status_code == 200
    predictions = ship_predictions(settings)
    put_events(settings, "clicks", clicks[:7])  # late: nobody knew them at the requests
    put_outcomes(settings, predictions, [number % 3 > 0 for number in range(20)])
    ingest(settings, "clicks", "results")
    put_facts(settings, predictions)
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


def test_an_on_demand_view_is_computed_from_what_was_known_at_each_moment(small):
    settings, predictions = small
    with Workspace(settings) as workspace:
        report = backtest(workspace, "purchase", 5)
        model = load_model(workspace.registry.bundle("purchase", 5) / "model")
    expected, gaps = {}, 0
    for prediction in predictions:
        key, price = prediction.entity["product_id"], prediction.request["price"]
        since = prediction.at - timedelta(days=7)
        known = [
            (at, mean)
            for number, at, mean in mean_prices(predictions)
            if number == key and since <= at <= prediction.at
        ]
        gaps += not known
        if price != 1:
            row = [True, max(known)[1] * 9 + 1 / (price - 1)] if known else [False, np.nan]
            expected[prediction.id] = float(model.predict(np.array([row], np.float32))[0])
    assert {row["id"]: row["replayed"] for row in report.rows.iter_rows(named=True)} == expected
    assert report.left_out == {"on-demand view 'gap' fails": 1}
    assert (len(expected), gaps, len({*expected.values()})) == (27, 8, 2)


def test_both_versions_are_measured_by_what_happened(small):
    settings, predictions = small
    with Workspace(settings) as workspace:
        report = backtest(workspace, "purchase", 2)
    (part,) = report.slices
    replayed = {row["id"]: row["replayed"] for row in report.rows.iter_rows(named=True)}
    happened = {prediction.id: number % 3 > 0 for number, prediction in enumerate(predictions[:20])}
    assert {row["id"]: row["outcome"] for row in report.rows.iter_rows(named=True)} == {
        prediction.id: happened.get(prediction.id) for prediction in predictions
    }
    assert part.known == 20
    logged = {prediction.id: prediction.value for prediction in predictions}
    for answers, metrics in ((logged, part.logged), (replayed, part.replayed)):
        right = [(answers[id_] >= 0.5) == was for id_, was in happened.items()]
        assert metrics["accuracy"] == pytest.approx(sum(right) / 20)
        pairs = [
            (answers[yes] > answers[no]) + (answers[yes] == answers[no]) / 2
            for yes, no in product(happened, happened)
            if happened[yes] and not happened[no]
        ]
        assert metrics["roc_auc"] == pytest.approx(sum(pairs) / len(pairs))
    assert part.logged["accuracy"] != part.replayed["accuracy"]


def fit_classes(first):
    """Trees that predict one of three classes from the views; `first` is the class of the fewest."""
    views = np.arange(200, dtype=np.float32)
    labels = (views * 3 // 200 + first) % 3
    parameters = {"objective": "multi:softprob", "num_class": 3, "max_depth": 3, "nthread": 1}
    matrix = np.column_stack([np.zeros(200, np.float32), views])
    return bytes(xgboost.train(parameters, xgboost.DMatrix(matrix, labels), 5).save_raw("ubj"))


def test_labels_of_several_classes_are_compared(tmp_path):
    settings = make_project(tmp_path / "p")
    classes = ("ash", "oak", "yew")
    boosters = {1: fit_classes(0), -1: fit_classes(1)}
    for version, slope in ((1, 1), (2, -1)):
        put_version(settings, boosters, version, plan_of(), slope, classes)
    put_version(settings, {1: fit_booster(1)}, 3, plan_of(), 1)
    put_features(settings, plan_of(), PRODUCTS)
    put_release(settings, Arm(1))
    with run_endpoint(settings) as client:
        several = [{"user_id": 1, "product_id": number, "price": 1.0} for number in range(20)]
        assert client.post("/predict/purchase", json={"instances": several}).status_code == 200
    predictions = ship_predictions(settings)
    happened = [classes[number % 3] for number in range(20)]
    put_outcomes(settings, predictions, happened)
    ingest(settings, "results")
    with Workspace(settings) as workspace:
        same, other = backtest(workspace, "purchase", 1), backtest(workspace, "purchase", 2)
        model = load_model(workspace.registry.bundle("purchase", 2) / "model")
        with pytest.raises(CallError, match="has the task multiclass, not binary"):
            backtest(workspace, "purchase", 3)
    assert (same.slices[0].equal, same.slices[0].decisions_changed) == (20, 0)
    rows = [[*prediction.features.values()] for prediction in predictions]
    probabilities = model.predict(np.array(rows, np.float32))
    labels = [classes[code] for code in probabilities.argmax(axis=1)]
    expected = {p.id: (p.value, label) for p, label in zip(predictions, labels, strict=True)}
    assert {row["id"]: (row["logged"], row["replayed"]) for row in other.rows.iter_rows(named=True)} == expected
    (part,) = other.slices
    assert part.decisions_changed == sum(old != new for old, new in expected.values()) > 10
    assert (part.mean_difference, part.greatest_difference, part.known) == (None, None, 20)
    logged = [[p.probabilities[name] for name in classes] for p in predictions]
    for answers, metrics in ((np.array(logged), part.logged), (probabilities, part.replayed)):
        truth = [classes.index(label) for label in happened]
        assert metrics["accuracy"] == pytest.approx(np.mean(answers.argmax(axis=1) == truth))
        assert metrics["log_loss"] == pytest.approx(-np.mean(np.log(answers[range(20), truth])))
    assert part.logged["log_loss"] != pytest.approx(part.replayed["log_loss"])


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
        for threshold in (float("nan"), -0.1, 1.5):
            with pytest.raises(CallError, match="is not a probability from 0 to 1"):
                backtest(workspace, "purchase", 1, threshold=threshold)
        newest = backtest(workspace, "purchase", 1, limit=3)
        assert newest.slices[0].requests == 3
        assert newest.rows["at"].min() >= pl.Series(sorted(p.at for p in predictions))[-3]


def test_the_fields_of_the_newest_request_are_named():
    rows = pl.DataFrame({"arm": ["champion"] * 2, "version": [1, 1]})
    logged = LoggedRequests(rows, [{"old": 1}, {"new": 2}], [{"facts__old": 1}, {"facts__new": 2}])
    with pytest.raises(CallError) as caught:
        _slice_of(logged, "colour")
    assert caught.value.remedy == "The newest has arm, facts__new, new, version."


@pytest.fixture
def run(small, capsys):
    """Runs the verb, and returns its exit code and its output."""

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["backtest", *arguments, "--project", str(small[0].root)])
        return end.value.code, "".join(capsys.readouterr())

    return call


def test_the_command_prints_the_slices_and_writes_the_answers(small, run, tmp_path):
    file = tmp_path / "new" / "answers.parquet"
    code, output = run("purchase@2", "--by", "user_id", "--out", str(file))
    with Workspace(small[0]) as workspace:
        report = backtest(workspace, "purchase", 2, by="user_id")
    assert code == 0
    for part in report.slices:
        metrics = [f"{part.logged[name]:.4f} → {part.replayed[name]:.4f}" for name in ("accuracy", "roc_auc")]
        cells = [part.name, part.requests, part.equal, part.decisions_changed]
        assert any(line.split()[:4] == [*map(str, cells)] for line in output.splitlines())
        assert all(metric in output for metric in metrics)
    assert pl.read_parquet(file).equals(report.rows)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    code, output = run("purchase@2", "--json")
    assert (code, json.loads(output)["slices"][0]["requests"]) == (0, 28)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["purchase"], "'purchase' is not a version of a model"),
        (["purchase@9"], "model 'purchase' has no version 9"),
        (["nope@1"], "'nope'"),
        (["purchase@1", "--since", "2026-03-08", "--until", "2026-03-01"], "there is no time from 2026-03-08"),
        (["purchase@1", "--since", "99999999d"], "'99999999d' is not a moment"),
        (["purchase@1", "--threshold", "nan"], "the threshold nan is not a probability"),
        (["purchase@1", "--limit", "0"], "0 is not in the range"),
        (["purchase@1", "--by", "colour"], "no request has the field 'colour'"),
        (["purchase@1", "--out", "/"], "/ is not a plain file"),
    ],
)
def test_a_wrong_command_says_what_is_wrong(run, arguments, message):
    code, output = run(*arguments)
    assert (code, message in output) == (2, True), output
