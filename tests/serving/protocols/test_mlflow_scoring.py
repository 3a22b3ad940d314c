"""MLflow's scoring protocol and the list protocol: which bodies they decode, and what they answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

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
        (b'{"inputs": {"x": 1, "y": "a"}}', 422, "inputs[...]"),
        (b'{"inputs": {}}', 422, None),
        (b'{"instances": [[NaN, "a"]]}', 400, None),
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


@pytest.mark.parametrize("protocol", [data_list, mlflow_scoring])
def test_a_query_is_refused(protocol: Any) -> None:
    with pytest.raises(HttpError, match="no query parameters"):
        protocol.decode(SCHEMA, {"query_string": b"a=1"}, b"{}")
