"""The feature server over HTTP: values, statuses, times and positions, invalid requests, and its metrics."""

import math
from contextlib import closing
from datetime import UTC, datetime

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.serving.running import run_endpoint, ship_predictions
from tests.serving.small_project import (
    DAY,
    make_project,
    plan_of,
    put_bundle,
    put_features,
    put_release,
)
from tests.until import until

from headrace import log
from headrace.features import online
from headrace.features.plan import (
    AggregateFunction,
    Aggregation,
    AsOfView,
    EntityKey,
    FeaturePlan,
    FeatureRef,
    OnDemandInput,
    OnDemandView,
    PlanField,
    WindowedView,
)
from headrace.kernel.position import LogPosition, SnapshotPosition
from headrace.kernel.time import from_micros, now_micros
from headrace.serving.release import Arm

HOUR = DAY // 24
SIZES = AsOfView(
    "sizes",
    ("item",),
    "sizes",
    "time",
    (PlanField("grams", "int64"), PlanField("kind", "string"), PlanField("rate", "float64")),
    ttl=7 * DAY,
)
RECENT = WindowedView(
    "recent",
    ("user",),
    "clicks",
    "clicks",
    None,
    "at",
    (PlanField("cents", "int64"),),
    (
        Aggregation("n", "cents", AggregateFunction("count"), DAY, HOUR, "int64"),
        Aggregation("most", "cents", AggregateFunction("max"), DAY, HOUR, "int64"),
    ),
)
RATIO = OnDemandView(
    "ratio",
    (OnDemandInput("rate", "sizes"), OnDemandInput("price")),
    (PlanField("of_rate", "float64"),),
    "row",
    "ratio",
    "def ratio(given):\n    rate = given['rate']\n"
    "    return {'of_rate': None if rate is None else given['price'] / rate}",
)
PLAN = FeaturePlan(
    model="purchase",
    entities=(EntityKey("item", "item", "string"), EntityKey("user", "user", "int64")),
    views=(SIZES, RECENT, RATIO),
    features=(
        FeatureRef("sizes", "grams", "int64"),
        FeatureRef("sizes", "kind", "string"),
        FeatureRef("recent", "n", "int64"),
        FeatureRef("recent", "most", "int64"),
        FeatureRef("ratio", "of_rate", "float64"),
    ),
    request=(PlanField("price", "float64"),),
    missing={"sizes__grams": 7},
    service="basket",
)
EXACT = 2**53 + 1  # a float64 cannot hold it
ROWS = {"a": (EXACT, "wool", 2.0), "b": (None, None, math.nan), "old": (1, "wool", 1.0), "zero": (1, "x", 0.0)}


@pytest.fixture(scope="module")
def tree():
    """A model of five features."""
    import xgboost

    matrix = xgboost.DMatrix(np.zeros((4, 5), np.float32), np.array([0.0, 1, 0, 1]))
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, matrix, 1)
    return {1: bytes(booster.save_raw("ubj"))}


@pytest.fixture(scope="module")
def basket(tmp_path_factory, tree):
    """A project whose released model has the features of service `basket`; the time of the row of item a."""
    settings, now = make_project(tmp_path_factory.mktemp("basket") / "project"), now_micros()
    put_bundle(settings, tree, 1, PLAN, slope=1)
    with closing(online.open(settings)) as store:
        store.prepare(PLAN)
        times = [now - (8 * DAY if item == "old" else HOUR) for item in ROWS]
        columns = zip(*ROWS.values(), strict=True)
        types = (pa.int64(), pa.string(), pa.float64())
        table = {"item": list(ROWS), "time": pa.array(map(from_micros, times), pa.timestamp("us", "UTC"))}
        for field, values, type_ in zip(SIZES.features, columns, types, strict=True):
            table[field.name] = pa.array(values, type_)
        store.load(SIZES, pa.table(table), SnapshotPosition("sizes", 41))
        clicks = {
            "user": pa.array([1, 1], pa.int64()),
            "at": pa.array([from_micros(now - HOUR), from_micros(now - 3 * HOUR)], pa.timestamp("us", "UTC")),
            "cents": pa.array([5, 9], pa.int64()),
        }
        store.fill(RECENT, pa.table(clicks), LogPosition("clicks", "log", {0: 12}))
    with closing(log.open(settings.log.url)) as topics:
        topics.create("clicks")
    put_release(settings, Arm(1))
    return settings, from_micros(times[0])


@pytest.fixture(scope="module")
def client(basket):
    with run_endpoint(basket[0]) as client:
        yield client


def ask(client, *entities, service="basket", **more):
    body = {"service": service, "entities": list(entities), **more}
    return client.post("/v1/features", json=body, timeout=60)


def entity(item, user=1, price=3.0):
    return {"item": item, "user": user, "price": price}


def test_each_value_has_its_status_time_and_position(client, basket):
    before = datetime.now(UTC)
    items = [entity("a"), entity("b"), entity("old"), entity("absent", user=2)]
    body = ask(client, *items).json()
    at = datetime.fromisoformat(body["at"])
    assert before <= at <= datetime.now(UTC)
    assert {name: body[name] for name in ("service", "model", "version", "plan")} == {
        "service": "basket",
        "model": "purchase",
        "version": 1,
        "plan": PLAN.digest,
    }
    columns = ["sizes__grams", "sizes__kind", "recent__n", "recent__most", "ratio__of_rate"]
    assert body["features"] == columns
    a, b, old, absent = body["rows"]
    assert a["values"] == [EXACT, "wool", 2, 9, 1.5]
    assert a["statuses"] == ["present"] * 5
    assert b["values"] == [None, None, 2, 9, None]  # no default of the model
    assert b["statuses"] == ["null", "null", "present", "present", "null"]
    assert old["values"] == [None, None, 2, 9, None]  # beyond the ttl
    assert old["statuses"] == ["not_found", "not_found", "present", "present", "null"]
    assert absent["values"] == [None, None, 0, None, None]
    assert absent["statuses"] == ["not_found", "not_found", "present", "null", "null"]
    times = [[time and datetime.fromisoformat(time) for time in row["event_times"]] for row in body["rows"]]
    assert times[0] == times[1] == [basket[1], basket[1], at, at, at]
    assert times[2] == times[3] == [None, None, at, at, at]
    row = {"kind": "row", "snapshot": 41}
    recent = {"kind": "stream", "offsets": {"0": 12}}
    known = {"sizes": {**row, "time": int(basket[1].timestamp() * 1e6)}, "recent": recent}
    assert a["positions"] == b["positions"] == known
    assert old["positions"] == absent["positions"] == {"sizes": {**row, "time": None}, "recent": recent}


def test_the_values_and_positions_are_those_of_a_prediction(client, basket):
    before = len(ship_predictions(basket[0]))
    row = ask(client, entity("a")).json()["rows"][0]
    assert len(ship_predictions(basket[0])) == before  # the feature server logs nothing
    id_ = client.post("/predict/purchase", json=entity("a")).json()["id"]
    (logged,) = [prediction for prediction in ship_predictions(basket[0]) if prediction.id == id_]
    assert [float(v) if isinstance(v, int) else v for v in row["values"]] == list(logged.features.values())
    assert row["positions"] == msgspec.to_builtins(logged.positions)


def test_10_000_entities_are_answered_in_their_order_and_one_more_is_refused(client):
    items = [entity("a" if n % 3 else "absent", user=n % 2) for n in range(10_000)]
    rows = ask(client, *items).json()["rows"]
    assert [row["statuses"][0] == "present" for row in rows] == [bool(n % 3) for n in range(10_000)]
    assert [row["values"][2] for row in rows] == [2 * (n % 2) for n in range(10_000)]
    answer = ask(client, *items, entity("a"))
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "entities")
    assert "length <= 10000" in answer.json()["error"]["message"]


GOOD = '{"item": "a", "user": 1, "price": 3}'


@pytest.mark.parametrize(
    ("entities", "field"),
    [
        ("[]", "entities"),
        ("{}", "entities"),
        ("null", "entities"),
        ('"x"', "entities"),
        (f"[{GOOD}, 7]", "entities[1]"),
        (f"[{GOOD}, null]", "entities[1]"),
        (f'[{GOOD}, ["a", 1, 3]]', "entities[1]"),
        ('[{"item": "a", "price": 3}]', "entities[0].user"),
        ('[{"item": null, "user": 1, "price": 3}]', "entities[0].item"),
        ('[{"item": 5, "user": 1, "price": 3}]', "entities[0].item"),
        (f'[{GOOD}, {{"item": "a", "user": null, "price": 3}}]', "entities[1].user"),
        ('[{"item": "a", "user": "1", "price": 3}]', "entities[0].user"),
        ('[{"item": "a", "user": 1.5, "price": 3}]', "entities[0].user"),
        ('[{"item": "a", "user": true, "price": 3}]', "entities[0].user"),
        ('[{"item": "a", "user": 9223372036854775808, "price": 3}]', "entities[0].user"),
        ('[{"item": "a", "user": 1, "price": null}]', "entities[0].price"),
        ('[{"item": "a", "user": 1, "price": 3, "label": 1}]', "entities[0].label"),
        ('[{"item": "a", "user": 1, "price": 3, "sizes__grams": 5}]', "entities[0].sizes__grams"),
    ],
)
def test_an_entity_that_does_not_fit_is_refused_and_its_field_named(client, entities, field):
    answer = client.post(
        "/v1/features",
        content=f'{{"service": "basket", "entities": {entities}}}',
        headers={"Content-Type": "application/json"},
    )
    assert (answer.status_code, answer.json()["error"].get("field")) == (422, field), answer.text


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ("", 400, "not_json"),
        ("{", 400, "not_json"),
        ("[" * 100_000, 422, "wrong_value"),
        ('{"service": "basket", "entities": ' + "[" * 100_000, 400, "not_json"),
        ('{"service": "basket", "entities": ' + "[" * 100_000 + "]" * 100_000 + "}", 400, "not_json"),
        ('{"service": "basket", "entities": [{"item": "a", "user": 1, "price": NaN}]}', 400, "not_json"),
        ('{"service": "basket", "entities": [{"item": "a", "user": 1, "price": 1e999}]}', 422, "wrong_value"),
        ("[]", 422, "wrong_value"),
        ("{}", 422, "missing"),
        ('{"service": "basket"}', 422, "missing"),
        ('{"service": 5, "entities": []}', 422, "wrong_value"),
        (f'{{"service": "basket", "entities": [{GOOD}], "full": true}}', 422, "extra"),
        (f'{{"service": "basket", "entities": [{GOOD}], "model": null}}', 422, "wrong_value"),
        (f'{{"service": "basket", "entities": [{GOOD}], "model": "absent"}}', 404, "no_such_model"),
        (f'{{"service": "nothing", "entities": [{GOOD}]}}', 404, "no_such_service"),
        (f'{{"service": "", "entities": [{GOOD}]}}', 404, "no_such_service"),
        (f'{{"service": "nothing", "entities": [{GOOD}], "model": "purchase"}}', 404, "no_such_service"),
    ],
)
def test_a_body_that_is_no_request_is_refused(client, body, status, code):
    answer = client.post("/v1/features", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert ask(client, entity("a")).status_code == 200


def test_an_unknown_service_is_answered_with_those_that_there_are(client):
    assert ask(client, entity("a"), service="other").json()["error"]["services"] == ["basket"]
    assert client.get("/models").json()["models"]["purchase"]["service"] == "basket"


def test_other_methods_and_queries_are_refused(client):
    assert client.get("/v1/features").status_code == 405
    answer = client.post("/v1/features?explain=1", json={"service": "basket", "entities": [entity("a")]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "query")
    answer = client.post("/v1/features", content=b"[" + b"1," * 9_000_000 + b"1]")
    assert answer.status_code in (413, 415)


def test_a_function_that_fails_names_its_view_and_the_entity(client):
    answer = ask(client, entity("a"), entity("zero"))
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["view"], error["field"]) == ("feature_failed", "ratio", "entities[1]")


def test_a_token_is_asked_for(basket, monkeypatch):
    monkeypatch.setenv("HEADRACE_TOKEN", "a-token-of-enough-length")
    with run_endpoint(basket[0]) as client:
        assert ask(client, entity("a")).status_code == 401
        client.headers["Authorization"] = "Bearer a-token-of-enough-length"
        assert ask(client, entity("a")).status_code == 200


def test_models_that_share_a_service_answer_alike_or_must_be_named(project, boosters):
    with run_endpoint(project) as client:
        shared = msgspec.structs.replace(plan_of(missing="refuse"), service="shared")
        put_bundle(project, boosters, 3, shared, slope=1)
        put_release(project, Arm(3))
        item = {"user_id": 1, "product_id": 7, "price": 3.5}
        until(lambda: ask(client, item, service="shared").status_code == 200)
        assert ask(client, item, service="shared").json()["rows"][0]["values"] == [9.5, 190]
        missing = {**item, "product_id": 404}  # the model's policy is not that of the feature server
        assert ask(client, missing, service="shared").json()["rows"][0]["values"] == [None, None]
        other = msgspec.structs.replace(shared, model="other", features=shared.features[::-1])
        put_bundle(project, boosters, 1, other, slope=1, model="other")
        put_release(project, Arm(1), model="other")
        until(lambda: "other" in client.get("/models").json()["models"])
        answer = ask(client, item, service="shared")
        assert (answer.status_code, answer.json()["error"]["models"]) == (422, ["other", "purchase"])
        for model, values in (("purchase", [9.5, 190]), ("other", [190, 9.5])):
            body = ask(client, item, service="shared", model=model).json()
            assert (body["model"], body["rows"][0]["values"]) == (model, values)


def samples_of(client):
    return {
        (sample.name, sample.labels.get("service"), sample.labels.get("arm"), sample.labels.get("view")): sample
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if "le" not in sample.labels
    }


def test_metrics_say_how_fresh_complete_and_costly_each_view_is(basket):
    with run_endpoint(basket[0]) as client:
        ask(client, entity("a"), entity("b"), entity("absent", user=2))
        ask(client, service="nothing")
        client.post("/predict/purchase", json=entity("a"))
        samples = samples_of(client)

    def value(name, view, service="basket", arm=None):
        return samples[f"headrace_{name}", service, arm, view].value

    # Of three entities: 3 features of sizes (rate is read by a function alone), 2 of recent, 1 of ratio.
    assert [value("view_values_total", view) for view in ("sizes", "recent", "ratio")] == [9, 6, 3]
    assert [value("view_missing_values_total", view) for view in ("sizes", "recent", "ratio")] == [6, 1, 2]
    assert value("feature_age_seconds_count", "sizes") == 2
    assert 7_200 <= value("feature_age_seconds_sum", "sizes") < 10_800  # two of an hour, and the time since
    assert all(value("view_seconds_total", view) > 0 for view in ("sizes", "recent", "ratio"))
    assert all(value("view_bytes_total", view) > 0 for view in ("sizes", "recent"))
    assert value("view_bytes_total", "ratio") == 0
    predicted = [value("view_values_total", v, None, "champion") for v in ("sizes", "recent", "ratio")]
    assert predicted == [3, 2, 1]
    assert value("view_missing_values_total", "sizes", None, "champion") == 0
    assert value("feature_age_seconds_count", "sizes", None, "champion") == 1
    assert samples["headrace_features_seconds_count", None, None, None].value == 2


def test_the_openapi_document_describes_the_fields_of_each_service(client):
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/v1/features"]["post"]
    (form,) = operation["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    assert form["properties"]["service"] == {"const": "basket"}
    item = form["properties"]["entities"]["items"]
    assert item["required"] == ["item", "user", "price"]
    assert {name: field["type"] for name, field in item["properties"].items()} == {
        "item": "string",
        "user": "integer",
        "price": "number",
    }
    assert form["properties"]["entities"]["maxItems"] == 10_000
    assert "/v1/features" in client.get("/docs").text


def test_without_a_release_no_service_answers(tmp_path, boosters):
    settings = make_project(tmp_path / "empty")
    with run_endpoint(settings) as client:
        assert ask(client, {"user_id": 1}).json()["error"]["services"] == []
        assert client.get("/openapi.json").status_code == 200
        plan = msgspec.structs.replace(plan_of(), service="shared")
        broken = put_bundle(settings, boosters, 1, plan)
        put_features(settings, plan, {7: (9.5, 190)})
        text = (broken / "plan.json").read_bytes()
        (broken / "plan.json").write_bytes(text + b" ")
        put_release(settings, Arm(1))
        until(lambda: ask(client, {"user_id": 1}, service="shared").status_code == 503)
