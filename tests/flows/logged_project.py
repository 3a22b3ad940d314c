"""A project whose version 1 answered requests: single ones, several at once, with gaps, with given ones.

Its version 2 has the same features, 3 those of a windowed view, 4 refuses missing ones, and 5 computes some on
demand.
"""

from __future__ import annotations

import threading
from contextlib import closing
from datetime import timedelta

import msgspec
import numpy as np
import pyarrow as pa
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
from headrace.kernel.time import now
from headrace.registry.bundle import seal
from headrace.registry.signing import signing_key
from headrace.serving.prediction import Prediction
from headrace.serving.release import Arm
from headrace.training.evaluation.binary import BinaryEvaluator
from headrace.training.evaluation.multiclass import MulticlassEvaluator
from headrace.training.files import REPORT
from headrace.training.gate import judge
from headrace.training.report import TrainingReport, TrainingSet, write_report
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
    put_report(settings, put_bundle(settings, boosters, version, plan, slope, classes=classes), plan, classes)


def put_report(settings, bundle, plan, classes=()):
    """Writes the report of a version's training into its bundle."""
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


def make_logged_project(root):
    """Makes the project. Returns its settings and its logged predictions."""
    settings = make_project(root)
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
