"""The features that a model sees: text, missing values, and functions that fail."""

import math

import pyarrow as pa
import pytest
from tests.serving.running import run_endpoint, ship_predictions
from tests.serving.small_project import DAY, put_bundle, put_release

from headrace.features import online
from headrace.features.plan import (
    AsOfView,
    EntityKey,
    FeaturePlan,
    FeatureRef,
    OnDemandInput,
    OnDemandView,
    PlanField,
)
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.time import from_micros, now_micros
from headrace.serving.release import Arm

WORDS = tuple(f"w{n:03}" for n in range(200))  # the booster predicts more than .5 for the upper half
FACTS = AsOfView(
    "words", ("item",), "words", "time", (PlanField("rate", "float64"), PlanField("kind", "string"))
)
ROWS = {
    1: (1.0, "w150"),
    2: (1.0, "w010"),
    3: (1.0, "unseen"),
    4: (None, None),
    5: (math.nan, ""),
    6: (math.inf, "w150"),
}
SHARE = OnDemandView(
    "share",
    (OnDemandInput("rate", "words"), OnDemandInput("price")),
    (PlanField("of_rate", "float64"),),
    "row",
    "share",
    "def share(given):\n    1 / given['price']\n    return {'of_rate': given['price'] / (given['rate'] or 1)}",
)
RATE, KIND, OF_RATE = ("words", "rate", "float64"), ("words", "kind", "string"), ("share", "of_rate", "float64")
EXPLAINED = "/predict/purchase?explain=1"


def plan_of(missing="model", views=(FACTS,), features=(RATE, KIND)):
    return FeaturePlan(
        "purchase",
        (EntityKey("item", "item", "int64"),),
        views,
        tuple(FeatureRef(*feature) for feature in features),
        request=(PlanField("price", "float64"),),
        missing=missing,
    )


@pytest.fixture
def release_and_ask(project, boosters):
    """A function that releases a version with this plan, sends the body and returns the response."""
    store = online.open(project)
    store.prepare(plan_of())
    at = pa.array([from_micros(now_micros() - DAY // 24)] * len(ROWS), pa.timestamp("us", "UTC"))
    rates, kinds = zip(*ROWS.values(), strict=True)
    rows = pa.table(
        {"item": list(ROWS), "time": at, "rate": pa.array(rates, pa.float64()), "kind": list(kinds)}
    )
    store.load(FACTS, rows, SnapshotPosition("words", 41))
    store.close()

    def ask(plan, body, url="/predict/purchase"):
        put_bundle(project, boosters, 3, plan, slope=1, categories={"words__kind": WORDS})
        put_release(project, Arm(3))
        with run_endpoint(project) as client:
            return client.post(url, json=body)

    return ask


def test_text_is_encoded_as_in_training(release_and_ask, project):
    body = {"instances": [{"item": item, "price": 1.0} for item in (1, 2, 3, 4, 5)]}
    many, few, unseen, null, empty = release_and_ask(plan_of(), body, EXPLAINED).json()["predictions"]
    assert many["value"] > 0.5 > few["value"]
    assert unseen["value"] == null["value"] == empty["value"]  # the model sees NaN
    kinds = [answer["features"]["words__kind"] for answer in (many, few, unseen, null, empty)]
    assert kinds == ["w150", "w010", "unseen", None, ""]
    assert [answer["missing"] for answer in (unseen, null, empty)] == [
        [],
        ["words__rate", "words__kind"],
        ["words__rate"],
    ]
    assert ship_predictions(project)[0].features == {"words__rate": 1.0, "words__kind": "w150"}


@pytest.mark.parametrize("item", [4, 5, 6])
def test_null_nan_and_infinity_are_missing_values(release_and_ask, project, item):
    answer = release_and_ask(plan_of({"words__rate": 1.25}), {"item": item, "price": 1.0}, EXPLAINED).json()
    assert answer["features"]["words__rate"] == 1.25
    assert "words__rate" in answer["missing"]
    assert ship_predictions(project)[0].missing == answer["missing"]


def test_the_model_sees_the_default_for_missing_text(release_and_ask):
    answer = release_and_ask(plan_of({"words__kind": "w150"}), {"item": 4, "price": 1.0}, EXPLAINED).json()
    assert answer["features"]["words__kind"] == "w150"
    assert answer["value"] > 0.5


def test_missing_features_name_their_instances(release_and_ask):
    body = {"instances": [{"item": item, "price": 1.0} for item in (1, 6, 2, 4)]}
    answer = release_and_ask(plan_of("refuse"), body)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["field"], error["instances"]) == ("missing_features", "instances[1]", [1, 3])
    assert error["missing"] == ["words__kind", "words__rate"]
    assert "Instance 1: " in error["message"]
    assert "words__rate" in error["message"]


@pytest.mark.parametrize("several", [True, False])
def test_a_failed_function_names_its_view_and_the_instance(release_and_ask, several):
    plan = plan_of(views=(FACTS, SHARE), features=(OF_RATE, KIND))
    right, wrong = ({"item": 1, "price": price} for price in (1.0, 0.0))
    answer = release_and_ask(plan, {"instances": [right, right, wrong]} if several else wrong)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["view"]) == ("feature_failed", "share")
    assert error.get("field") == ("instances[2]" if several else None)


def test_a_value_beyond_float32_is_missing_in_response_and_log(release_and_ask, project):
    plan = plan_of(views=(FACTS, SHARE), features=(OF_RATE, KIND))
    body = {"instances": [{"item": 1, "price": price} for price in (1e39, 1.0)]}
    first, second = release_and_ask(plan, body, EXPLAINED).json()["predictions"]
    assert (first["missing"], second["missing"]) == (["share__of_rate"], [])
    assert first["features"]["share__of_rate"] is None
    assert [prediction.missing for prediction in ship_predictions(project)] == [["share__of_rate"], []]
