"""KServe's V1 protocol: its paths, bodies and errors, decoded alone and over HTTP."""

import httpx
import msgspec
import pytest
from tests.serving.running import FEW_VIEWS, INSTANCE, run_endpoint, ship_predictions
from tests.serving.small_project import plan_of, put_bundle, put_release

from headrace.features.plan import PlanField
from headrace.http.responses import HttpError
from headrace.serving.endpoint import MAX_BODY
from headrace.serving.errors import RequestError
from headrace.serving.protocols.counting import MAX_INSTANCES
from headrace.serving.protocols.kserve_v1 import decode, encode_error
from headrace.serving.protocols.status import to_response_error
from headrace.serving.release import Arm
from headrace.serving.request_schema import RequestSchema

PREDICT = "/v1/models/purchase:predict"
PRICE = PlanField("price", "float64")


@pytest.fixture
def client(project):
    with run_endpoint(project) as client:
        yield client


def error_of(body, query=b""):
    """The status and the text of the error that a body is refused with."""
    with pytest.raises((HttpError, RequestError)) as caught:
        decode(RequestSchema([plan_of(request=(PRICE,))]), {"query_string": query}, body)
    error = to_response_error(caught.value)
    answer = msgspec.json.decode(encode_error(error))
    assert list(answer) == ["error"]
    return error.status, answer["error"]


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"[" * 100_000, 422, "Expected `object`"),
        (b'{"\xff": 1}', 400, "not JSON"),
        (b"[]", 422, "Expected `object`"),
        (b"null", 422, "Expected `object`"),
        (b"{}", 422, "instances: Object missing required field `instances`"),
        (b'{"instances": null}', 422, "instances: Expected `array`"),
        (b'{"instances": []}', 422, "instances: Expected `array` of length >= 1"),
        (b'{"instances": [1]}', 422, "instances[0]: Expected `object | array`, got `int`"),
        (
            b'{"instances": [{"user_id": 1, "product_id": 2, "price": 3}], "more": 1}',
            422,
            "more: Object contains",
        ),
        (b'{"user_id": 1, "product_id": 2, "price": 3}', 422, "Object contains unknown field `user_id`"),
        (b'{"instances": [{"user_id": 1, "product_id": 2}]}', 422, "instances[0].price: Object missing"),
        (
            b'{"instances": [{"user_id": "1", "product_id": 2, "price": 3}]}',
            422,
            "instances[0].user_id: Expected",
        ),
        (b'{"instances": [{"user_id": null, "product_id": 2, "price": 3}]}', 422, "instances[0].user_id"),
        (b'{"instances": [{"user_id": 9223372036854775808, "product_id": 2, "price": 3}]}', 422, "user_id"),
        (b'{"instances": [{"user_id": 1, "product_id": 2, "price": NaN}]}', 400, "not JSON"),
        (b'{"instances": [{"user_id": 1, "product_id": 2, "prise": 3}]}', 422, "instances[0].prise: Object"),
    ],
)
def test_an_invalid_body_is_refused_and_its_instance_and_field_named(body, status, text):
    answer = error_of(body)
    assert (answer[0], text in answer[1]) == (status, True), answer


def test_too_many_instances_are_refused():
    body = msgspec.json.encode({"instances": [INSTANCE] * (MAX_INSTANCES + 1)})
    assert error_of(body) == (422, f"instances: Expected `array` of length <= {MAX_INSTANCES}.")


def test_a_query_is_refused():
    body = msgspec.json.encode({"instances": [INSTANCE]})
    assert error_of(body, b"explain=1") == (400, "This protocol has no query parameters.")


@pytest.mark.parametrize("count", [1, 3, 200])
def test_predictions_are_values_in_the_order_of_the_instances(client: httpx.Client, project, count):
    instances = [INSTANCE if n % 3 else FEW_VIEWS for n in range(count)]
    answer = client.post(PREDICT, json={"instances": instances})
    assert (answer.status_code, list(answer.json())) == (200, ["predictions", "ids", "versions", "missing"])
    native = client.post("/predict/purchase", json={"instances": instances}).json()["predictions"]
    values = [prediction["value"] for prediction in native]
    assert answer.json()["predictions"] == values
    assert [prediction.value for prediction in ship_predictions(project)] == [*values, *values]


def test_an_unknown_entity_is_answered_by_the_declared_policy(client: httpx.Client, project, boosters):
    unknown = {**INSTANCE, "product_id": 404}
    answer = client.post(PREDICT, json={"instances": [INSTANCE, unknown]})  # missing="model"
    assert answer.status_code == 200
    assert len(answer.json()["predictions"]) == 2
    put_bundle(project, boosters, 3, plan_of(missing="refuse"), slope=1)
    put_bundle(project, boosters, 4, plan_of(missing={"facts__mean_price": 1.0, "facts__views": 190}), slope=1)
    for version, status in ((3, 422), (4, 200)):
        put_release(project, Arm(version))
        with run_endpoint(project) as changed:
            answer = changed.post(PREDICT, json={"instances": [INSTANCE, unknown]})
            assert answer.status_code == status
            if status == 200:
                assert min(answer.json()["predictions"]) > 0.5
            else:
                assert answer.json() == {
                    "error": "instances[1]: Instance 1: The model refuses to answer without"
                    " facts__mean_price, facts__views."
                }


def test_models_are_listed_and_their_readiness_told(client: httpx.Client):
    assert client.get("/").json() == {"status": "alive"}
    assert client.get("/v1/models").json() == {"models": ["purchase"]}
    assert client.get("/v1/models/purchase").json() == {"name": "purchase", "ready": True}
    absent = client.get("/v1/models/absent")
    assert (absent.status_code, absent.json()) == (404, {"error": "Model 'absent' is not released here."})


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/v1/models/absent:predict", {}, 404),
        ("POST", "/v1/models/:predict", {}, 404),
        ("POST", "/v1/models/purchase", {}, 405),
        ("GET", PREDICT, {}, 405),
        ("POST", PREDICT, {"Content-Type": "text/plain"}, 415),
        ("POST", PREDICT, {"Content-Encoding": "gzip"}, 415),
        ("POST", PREDICT, {"Host": "evil.example"}, 421),
    ],
)
def test_each_error_has_the_form_of_the_protocol(client: httpx.Client, project, method, path, headers, status):
    answer = client.request(method, path, json={"instances": [INSTANCE]}, headers=headers)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert isinstance(answer.json()["error"], str)
    assert ship_predictions(project) == []


def test_a_large_body_is_refused(client: httpx.Client):
    answer = client.post(PREDICT, content=b"[" * (MAX_BODY + 1), headers={"Content-Type": "application/json"})
    assert (answer.status_code, list(answer.json())) == (413, ["error"])
