"""Requests that give features themselves: which fields they need, and that nothing else changes."""

import itertools

import pytest
from tests.serving.running import FEW_VIEWS, INSTANCE, run_endpoint, ship_predictions
from tests.serving.small_project import FACTS, make_project, plan_of, put_bundle, put_features, put_release

from headrace.features.plan import (
    EntityKey,
    FeaturePlan,
    FeatureRef,
    OnDemandInput,
    OnDemandView,
    PlanField,
    find_needed,
)
from headrace.serving.errors import MissingField, RequestError, UnknownField, WrongValue
from headrace.serving.protocols.instances import convert_instances
from headrace.serving.release import Arm
from headrace.serving.request_schema import RequestSchema

RATIO = OnDemandView(
    name="ratio",
    inputs=(OnDemandInput("price"), OnDemandInput("mean_price", "facts")),
    features=(PlanField("ratio", "float64"),),
    mode="row",
    function="ratio",
    source="def ratio(row):\n"
    "    mean = row['mean_price']\n"
    "    return {'ratio': row['price'] / mean if mean else None}\n",
)
PLAN = FeaturePlan(
    model="purchase",
    entities=(EntityKey("user", "user_id", "int64"), EntityKey("product", "product_id", "int64")),
    views=(FACTS, RATIO),
    features=(FeatureRef("ratio", "ratio", "float64"), FeatureRef("facts", "views", "int64")),
    request=(PlanField("price", "float64"),),
)


@pytest.fixture
def client(tmp_path, boosters):
    settings = make_project(tmp_path / "project")
    put_bundle(settings, boosters, 1, PLAN)
    put_features(settings, PLAN, {7: (9.5, 190), 8: (20.0, 10)})
    put_release(settings, Arm(1))
    with run_endpoint(settings) as client:
        client.settings = settings
        yield client


def ask(client, instance):
    answer = client.post("/predict/purchase?explain=1", json=instance)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_given_features_replace_those_that_would_be_looked_up_and_computed(client):
    looked_up = ask(client, INSTANCE)
    assert looked_up["features"] == {"ratio__ratio": 3.5 / 9.5, "facts__views": 190}
    whole = ask(client, looked_up["features"])
    assert (whole["features"], whole["value"]) == (looked_up["features"], looked_up["value"])
    mixed = ask(client, {**INSTANCE, "facts__mean_price": 7})
    assert mixed["features"] == {"ratio__ratio": 0.5, "facts__views": 190}
    without_keys = ask(client, {"price": 3.5, "facts__mean_price": 7, "facts__views": 10.0})
    assert without_keys["features"] == {"ratio__ratio": 0.5, "facts__views": 10}
    assert without_keys["value"] == ask(client, {"ratio__ratio": 0.5, "facts__views": 10})["value"]
    missing = ask(client, {**INSTANCE, "facts__views": None})
    assert (missing["features"]["facts__views"], missing["missing"]) == (None, ["facts__views"])
    first, *others = ship_predictions(client.settings)
    assert first.positions["facts"]["snapshot"] == 41
    assert [prediction.positions for prediction in others] == [{}] * len(others)


def test_instances_of_every_kind_are_answered_in_their_order(client):
    kinds = [
        INSTANCE,
        FEW_VIEWS,
        {**INSTANCE, "facts__views": 10},
        {"price": 3.5, "facts__mean_price": 7, "facts__views": 10.0},
        {"ratio__ratio": None, "facts__views": 190},
        [0.5, 190],
    ]
    alone = [ask(client, kind) for kind in kinds]
    for order in itertools.permutations(range(len(kinds))):
        body = {"instances": [kinds[index] for index in order]}
        answer = client.post("/predict/purchase?explain=1", json=body).json()["predictions"]
        for prediction, index in zip(answer, order, strict=True):
            for member in ("value", "features", "missing", "arm"):
                assert prediction[member] == alone[index][member]


@pytest.mark.parametrize("bits", range(16))
def test_the_needed_views_and_fields_are_those_that_a_recursion_finds(bits):
    columns = ("facts__mean_price", "facts__views", "ratio__ratio", "facts__absent")
    given = {column for index, column in enumerate(columns) if bits >> index & 1}

    def walk(column):
        if column in given:
            return
        view = PLAN.view(column.split("__")[0])
        views.add(view.name)
        if view is FACTS:
            fields.update(view.keys)
            return
        for source in view.inputs:
            if source.view is None:
                fields.add(source.name)
            else:
                walk(f"{source.view}__{source.name}")

    views, fields = set(), set()
    for feature in PLAN.features:
        walk(feature.column)
    assert find_needed(PLAN, given) == (views, fields)


@pytest.mark.parametrize(
    ("row", "kind", "field"),
    [
        ({"price": 1.0}, MissingField, "user_id"),
        ({"facts__views": 3}, MissingField, "product_id"),
        ({"product_id": 1, "facts__views": 3}, MissingField, "price"),
        ({"ratio__ratio": 1}, MissingField, "product_id"),
        ({"facts__mean_price": 3.0, "facts__views": 1}, MissingField, "price"),
        ({"ratio__ratio": 1, "facts__views": 1.5}, WrongValue, "facts__views"),
        ({"ratio__ratio": 1, "facts__views": 2**63}, WrongValue, "facts__views"),
        ({"ratio__ratio": 10**400, "facts__views": 1}, WrongValue, "ratio__ratio"),
        ({"ratio__ratio": "x", "facts__views": 1}, WrongValue, "ratio__ratio"),
        ({"ratio__ratios": 1, "facts__views": 1}, UnknownField, "ratio__ratios"),
        ([1, 2, 3], WrongValue, None),
        ([1, "2"], WrongValue, "facts__views"),
        ([], WrongValue, None),
    ],
)
def test_an_instance_that_lacks_what_it_needs_is_refused(row, kind, field):
    with pytest.raises(RequestError) as caught:
        convert_instances(RequestSchema([PLAN]), [[1.0, 2], row])
    assert (type(caught.value), caught.value.field, caught.value.instance) == (kind, field, 1)


def test_a_list_needs_one_order_of_the_features():
    reverse = FeaturePlan(PLAN.model, PLAN.entities, PLAN.views, PLAN.features[::-1], PLAN.request)
    with pytest.raises(WrongValue, match="different features"):
        convert_instances(RequestSchema([PLAN, reverse]), [[1.0, 2]])


def test_a_feature_of_two_types_cannot_be_given():
    views = (PlanField("mean_price", "float64"), PlanField("views", "string"))
    other = type(FACTS)(FACTS.name, FACTS.keys, FACTS.table, FACTS.time, views)
    features = (FeatureRef("facts", "mean_price", "float64"), FeatureRef("facts", "views", "string"))
    schema = RequestSchema([plan_of(), FeaturePlan("purchase", PLAN.entities, (other,), features)])
    with pytest.raises(UnknownField) as caught:
        convert_instances(schema, [{**INSTANCE, "facts__views": 1}])
    assert caught.value.field == "facts__views"
    with pytest.raises(WrongValue, match="different features"):
        convert_instances(schema, [[1.0, 2]])
