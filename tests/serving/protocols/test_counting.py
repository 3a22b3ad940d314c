"""The number of instances: too many are refused before they take the memory of decoded ones."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from headrace.features.plan import EntityKey, FeaturePlan
from headrace.http.responses import HttpError
from headrace.serving.errors import RequestError
from headrace.serving.mlflow_models.signature import Signature, SignatureSchema
from headrace.serving.protocols import data_list, kserve_v1, mlflow_scoring, native
from headrace.serving.protocols.counting import MAX_INSTANCES
from headrace.serving.request_schema import RequestSchema

SCHEMA = RequestSchema([FeaturePlan("m", (EntityKey("user", "user_id", "int64"),), (), (), ())])
ANY = SignatureSchema(Signature())
SCOPE = {"query_string": b""}
TOO_MANY = "length <= 10000"


@pytest.mark.parametrize("row", [b"{}", b"[]", b'{"user_id":1}', b"[NaN]"])
@pytest.mark.parametrize(
    ("protocol", "before", "after"),
    [
        (native, b'{"instances":[', b"]}"),
        (kserve_v1, b'{"instances":[', b"]}"),
        (data_list, b'{"data":[', b"]}"),
        (mlflow_scoring, b'{"instances":[', b"]}"),
        (mlflow_scoring, b'{"inputs":[', b"]}"),
        (mlflow_scoring, b'{"dataframe_records":[', b"]}"),
        (mlflow_scoring, b'{"dataframe_split":{"columns":["user_id"],"data":[', b"]}}"),
    ],
)
def test_many_rows_are_refused_without_being_kept(
    protocol: Any, before: bytes, after: bytes, row: bytes
) -> None:
    body = before + (row + b",") * 100_000 + row + after
    with pytest.raises((HttpError, RequestError)):  # it builds what is built once
        protocol.decode(SCHEMA, SCOPE, body)
    tracemalloc.start()
    try:
        with pytest.raises((HttpError, RequestError)):
            protocol.decode(SCHEMA, SCOPE, body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(body)


def test_columns_that_are_too_long_are_not_made_rows() -> None:
    column = b"[" + b"1," * MAX_INSTANCES + b"1]"
    with pytest.raises(RequestError, match=TOO_MANY):
        mlflow_scoring.decode(ANY, SCOPE, b'{"inputs":{"a":%b,"b":%b}}' % (column, column))


@pytest.mark.parametrize("more", [0, 1])
def test_braces_in_a_text_are_not_instances(more: int) -> None:
    """`[{}]` a hundred times in each text: only the instances count."""
    row = b'{"text":"' + b"[{}]," * 100 + b'\\"[{"}'
    body = b'{"dataframe_records":[' + b",".join([row] * (MAX_INSTANCES + more)) + b"]}"
    if more:
        with pytest.raises(RequestError, match=TOO_MANY):
            mlflow_scoring.decode(ANY, SCOPE, body)
    else:
        assert len(mlflow_scoring.decode(ANY, SCOPE, body).instances) == MAX_INSTANCES
