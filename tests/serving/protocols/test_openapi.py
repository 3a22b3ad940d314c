"""The OpenAPI document and its page: every path, and bodies that the endpoint accepts."""

import json

import jsonschema
import pytest
from tests.serving.running import INSTANCE, run_endpoint

from headrace.serving.protocols import PROTOCOLS

JSON = {"Content-Type": "application/json"}
GIVEN = {"facts__mean_price": 9.5, "facts__views": None}


@pytest.fixture
def client(project):
    with run_endpoint(project) as client:
        yield client


def bodies_of(instance, entity=None):
    """path → a body with this instance, or entity: one cannot give features."""
    tensor = {"name": "price", "shape": [1], "datatype": "FP64", "data": [3.5]}
    return {
        "/predict/purchase": instance,
        "/v1/features": {"service": "purchase", "entities": [instance if entity is None else entity]},
        "/v1/models/purchase:predict": {"instances": [instance]},
        "/v2/models/purchase/infer": {"inputs": [tensor]},
        "/v2/models/purchase/versions/{version}/infer": {"inputs": [tensor]},
        "/purchase/invocations": {"dataframe_records": [instance]},
        "/invocations": {"inputs": [instance]},
        "/purchase": {"data": [instance]},
    }


def test_the_document_has_every_path_and_the_models_fields(client):
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    described = {
        route.path.replace("{model}", "purchase") for protocol in PROTOCOLS for route in protocol.ROUTES
    }
    assert set(document["paths"]) == described - {"/openapi.json", "/docs"}
    posts = {path: methods["post"] for path, methods in document["paths"].items() if "post" in methods}
    assert set(posts) == set(bodies_of(INSTANCE))
    for instance in (INSTANCE, GIVEN, {**INSTANCE, **GIVEN}, [9.5, 190]):
        for path, body in bodies_of(instance, INSTANCE).items():
            schema = posts[path]["requestBody"]["content"]["application/json"]["schema"]
            jsonschema.Draft202012Validator.check_schema(schema)
            jsonschema.validate(body, schema)
            if "v2" not in path:
                check_answer(client, posts[path], path, body)
    for name in ("/predict/purchase", "/v1/models/purchase:predict"):
        check_answer(client, posts[name], name, {"instances": [INSTANCE, GIVEN]})
    check_answer(client, posts["/predict/purchase"], "/predict/purchase?explain=1", INSTANCE)
    split = {"columns": list(INSTANCE), "data": [list(INSTANCE.values())], "index": [7]}
    check_answer(client, posts["/invocations"], "/invocations", {"dataframe_split": split})
    tensors = [
        {"name": name, "shape": [1], "datatype": "FP64" if name == "price" else "INT64", "data": [value]}
        for name, value in INSTANCE.items()
    ]
    infer = "/v2/models/purchase/infer"
    check_answer(client, posts[infer], infer, {"inputs": tensors})


def check_answer(client, operation, path, body):
    jsonschema.validate(body, operation["requestBody"]["content"]["application/json"]["schema"])
    answer = client.post(path, content=json.dumps(body), headers=JSON)
    assert answer.status_code == 200, (path, body, answer.text)
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(answer.json(), schema)


@pytest.mark.parametrize(
    "instance", [{**INSTANCE, "user_id": "1"}, {**INSTANCE, "prise": 1}, {}, {"price": 3.5}, 7, None]
)
def test_bodies_that_the_document_excludes_are_refused(client, instance):
    paths = client.get("/openapi.json").json()["paths"]
    for path, body in bodies_of(instance).items():
        if "v2" in path:
            continue
        schema = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(body, schema)
        assert client.post(path, content=json.dumps(body), headers=JSON).status_code == 422, (path, body)


def test_the_page_shows_the_paths(client):
    page = client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for path in client.get("/openapi.json").json()["paths"]:
        assert f"{path}</code>" in page.text
