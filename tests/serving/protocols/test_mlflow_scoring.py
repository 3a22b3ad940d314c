"""MLflow's scoring protocol and the list protocol: which bodies they decode, and what they answer."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import pytest
from tests.serving.running import INSTANCE, run_endpoint
from tests.serving.small_project import make_project

from headrace.http.responses import HttpError
from headrace.serving.errors import RequestError
from headrace.serving.mlflow_models.signature import Column, Signature, SignatureSchema
from headrace.serving.protocols import data_list, mlflow_scoring
from headrace.serving.protocols.status import to_response_error

SCHEMA = SignatureSchema(Signature([Column("x", "double"), Column("y", "string")]))
ROWS = [{"x": 1.0, "y": "a"}, {"x": 2.0, "y": "b"}]
SCOPE = {"query_string": b""}


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["y", "x"], "data": [["a", 1], ["b", 2]]}},
        {"dataframe_split": {"index": [7, 8], "columns": ["x", "y"], "data": [[1, "a"], [2, "b"]]}},
        {"dataframe_records": ROWS},
        {"instances": ROWS},
        {"instances": [[1, "a"], [2, "b"]]},
        {"inputs": {"x": [1, 2], "y": ["a", "b"]}},
        {"inputs": ROWS},
    ],
)
def test_each_form_of_a_body_gives_the_same_rows(body: dict[str, Any]) -> None:
    assert mlflow_scoring.decode(SCHEMA, SCOPE, json.dumps(body).encode()).instances == ROWS


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"{}", 422, None),
        (b'{"instances": [[1, "a"]], "inputs": [[1, "a"]]}', 422, None),
        (b'{"rows": []}', 422, "rows"),
        (b'{"instances": []}', 422, None),
        (b'{"instances": null}', 422, "instances"),
        (b'{"dataframe_records": [{"x": 1, "y": "a", "z": 1}]}', 422, "rows[0].z"),
        (b'{"dataframe_records": [{"x": 1, "y": "a"}, {"x": "1", "y": "a"}]}', 422, "rows[1].x"),
        (b'{"dataframe_split": {"columns": ["x"], "data": [[1]]}}', 422, "rows[0].y"),
        (b'{"dataframe_split": {"columns": ["x", "x"], "data": [[1, 2]]}}', 422, None),
        (b'{"dataframe_split": {"columns": ["x", "y"], "data": [[1, "a"], [1]]}}', 422, "rows[1]"),
        (b'{"dataframe_split": {"columns": ["x", "y"]}}', 422, "dataframe_split.data"),
        (b'{"inputs": {"x": [1, 2], "y": ["a"]}}', 422, None),
        (b'{"inputs": {"x": 1, "y": "a"}}', 422, "x"),
        (b'{"inputs": {"x": [1, [2]], "y": ["a", "b"]}}', 422, "rows[1].x"),
        (b'{"inputs": {"x": [1], "z": ["a"]}}', 422, "z"),
        (b'{"inputs": {}}', 422, None),
        (b'{"instances": [[NaN, "a"]]', 400, None),
        (b'{"instances": [[Infinity, "NaN"]]}', 400, None),
        (b'{"instances": [[NaN, "\\ud800"]]}', 400, None),
        (b'{"instances": [[1, "a"], [2, NaN, 3]]}', 422, "rows[1]"),
        (b'{"NaN": [[NaN, "a"]]}', 422, "NaN"),
        (b'{"inputs": NaN}', 422, "inputs"),
        (b'{"inputs": [[1, "a"]], "params": {"x": 1}}', 422, "params.x"),
        (b"[" * 100_000 + b"NaN", 422, None),
        (b'{"NaN": ' + b"[" * 100_000, 422, "NaN"),
        (b"{", 400, None),
    ],
)
def test_an_invalid_body_is_refused_and_its_field_named(body: bytes, status: int, field: str | None) -> None:
    with pytest.raises((HttpError, RequestError)) as caught:
        mlflow_scoring.decode(SCHEMA, SCOPE, body)
    error = to_response_error(caught.value, "rows")
    assert (error.status, error.field) == (status, field)
    body_of_error = json.loads(mlflow_scoring.encode_error(error))
    assert body_of_error["error_code"] == error.code
    assert field is None or body_of_error["message"].startswith(f"{field}: ")


def test_nan_in_a_text_is_that_text() -> None:
    texts = ["NaN", "[NaN,", 'a "NaN"', '\\"NaN', "\\\\", "NaN\\", "é NaN", "N", "NaNaN"]
    rows = [[float("nan"), text] for text in texts]
    body = json.dumps({"instances": rows}).encode()
    assert mlflow_scoring.decode(SCHEMA, SCOPE, body).instances == [{"x": None, "y": text} for text in texts]
    for body in (b"NaN", b'"NaN', b'{"instances": [[1, "a"]], "inputs": NaNaN}', b"N", b"NaN\\"):
        with pytest.raises((HttpError, RequestError)):
            mlflow_scoring.decode(SCHEMA, SCOPE, body)


def test_nan_is_a_missing_value_as_mlflows_client_writes_it() -> None:
    body = b'{"dataframe_split": {"columns": ["x", "y"], "data": [[NaN, "NaN"], [2, NaN]]}, "params": {}}'
    rows = [{"x": None, "y": "NaN"}, {"x": 2.0, "y": None}]
    assert mlflow_scoring.decode(SCHEMA, SCOPE, body).instances == rows


@pytest.mark.parametrize("protocol", [data_list, mlflow_scoring])
def test_a_query_is_refused(protocol: Any) -> None:
    with pytest.raises(HttpError, match="no query parameters"):
        protocol.decode(SCHEMA, {"query_string": b"a=1"}, b"{}")


def test_the_scoring_server_of_a_released_model(project: Any) -> None:
    rows = [INSTANCE, {**INSTANCE, "product_id": 8}, {**INSTANCE, "product_id": 404}]
    split = {"columns": list(INSTANCE), "data": [list(row.values()) for row in rows]}
    with run_endpoint(project) as client:
        assert (client.get("/ping").status_code, client.get("/health").content) == (200, b"\n")
        assert client.get("/version").text == version("mlflow")
        for path in ("/invocations", "/purchase/invocations"):
            answer = client.post(path, json={"dataframe_split": split})
            assert answer.status_code == 200
            body = answer.json()
            assert [value > 0.5 for value in body["predictions"][:2]] == [True, False]
            assert body["missing"] == [[], [], ["facts__mean_price", "facts__views"]]
            assert body["versions"] == [1, 1, 1]
            assert len(set(body["ids"])) == 3
        assert client.post("/absent/invocations", json={}).status_code == 404


def test_without_a_model_the_scoring_server_is_not_ready(tmp_path: Any) -> None:
    with run_endpoint(make_project(tmp_path / "empty")) as client:
        assert client.get("/ping").status_code == 404
        answer = client.post("/invocations", json={"instances": [{}]})
        assert (answer.status_code, answer.json()["error_code"]) == (404, "no_such_model")
