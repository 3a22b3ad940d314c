"""The number of instances: too many are refused before they take the memory of decoded ones."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from tests.serving.small_project import plan_of

from headrace.features.plan import EntityKey, FeaturePlan
from headrace.http.responses import HttpError
from headrace.serving.errors import RequestError
from headrace.serving.mlflow_models.signature import Column, Signature, SignatureSchema
from headrace.serving.protocols import data_list, kserve_v1, mlflow_scoring, native, open_inference
from headrace.serving.protocols.counting import MAX_INSTANCES
from headrace.serving.request_schema import InstanceSchema, RequestSchema

SCHEMA = RequestSchema([FeaturePlan("m", (EntityKey("user", "user_id", "int64"),), (), (), ())])
FEATURES = RequestSchema([plan_of()])
TENSOR = b'"name":"user_id","datatype":"INT64","shape":[1]'
TEXT = b'"name":"user_id","datatype":"BYTES","shape":[1,1]'
MATRIX = b'"name":"x","datatype":"BYTES","shape":[1,2]'
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
    check_memory(protocol, SCHEMA, before + (row + b",") * 100_000 + row + after)


def check_memory(protocol: Any, schema: InstanceSchema, body: bytes, head: int | None = None) -> None:
    """Checks that a body is refused without being decoded to a hundred times its size."""
    length = (b"inference-header-content-length", str(head).encode())
    scope = SCOPE | {"headers": [] if head is None else [length]}
    with pytest.raises((HttpError, RequestError)):  # it builds what is built once
        protocol.decode(schema, scope, body)
    tracemalloc.start()
    try:
        with pytest.raises((HttpError, RequestError)):
            protocol.decode(schema, scope, body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(body)


@pytest.mark.parametrize("schema", [SCHEMA, FEATURES, SignatureSchema(Signature([Column("user_id", "long")]))])
@pytest.mark.parametrize("value", [b"[]", b"{}", b"1", b"[[1]]", b'"a,[{"'])
@pytest.mark.parametrize(
    ("protocol", "before", "after"),
    [
        (native, b'{"instances":[[', b"]]}"),
        (native, b'{"instances":[{"user_id":[', b"]}]}"),
        (native, b'{"user_id":[', b"]}"),
        (kserve_v1, b'{"instances":[[[', b"]]]}"),
        (data_list, b'{"data":[[', b"]]}"),
        (mlflow_scoring, b'{"instances":[[', b"]]}"),
        (mlflow_scoring, b'{"inputs":[[NaN,', b"]]}"),
        (mlflow_scoring, b'{"inputs":{"user_id":[', b"]}}"),
        (mlflow_scoring, b'{"inputs":{"other":[', b"]}}"),
        (mlflow_scoring, b'{"dataframe_split":{"columns":["user_id"],"data":[[', b"]]}}"),
        (mlflow_scoring, b'{"dataframe_split":{"columns":["user_id"],"data":[],"index":[', b"]}}"),
        (mlflow_scoring, b'{"instances":[],"params":{"a":[', b"]}}"),
        (open_inference, b'{"inputs":[{%b,"data":[' % TENSOR, b"]}]}"),
        (open_inference, b'{"inputs":[{%b,"data":[["",' % TEXT, b"]]}]}"),
        (open_inference, b'{"inputs":[{%b,"data":[["",' % MATRIX, b"]]}]}"),
        (open_inference, b'{"inputs":[{%b,"data":[1],"parameters":{"binary_data_size":[' % TENSOR, b"]}}]}"),
        (open_inference, b'{"parameters":{"a":[', b']},"inputs":[]}'),
        (open_inference, b'{"outputs":[{"name":"ids","parameters":{"binary_data":[', b']}}],"inputs":[]}'),
        (open_inference, b'{"outputs":[', b'],"inputs":[]}'),
    ],
)
def test_values_that_the_request_cannot_have_are_refused_without_being_kept(
    protocol: Any, before: bytes, after: bytes, value: bytes, schema: InstanceSchema
) -> None:
    check_memory(protocol, schema, before + (value + b",") * 30_000 + value + after)


@pytest.mark.parametrize("shape", [b"1", b"10000", b"10000,1", b"1,2147483647", b"9999,2147483647"])
def test_texts_of_another_number_than_the_shape_says_are_refused_without_being_kept(shape: bytes) -> None:
    content = bytes(4) * 100_000
    head = (
        b'{"inputs":[{"name":"user_id","datatype":"BYTES","shape":[%b],"parameters":{"binary_data_size":%d}}]}'
    )
    head %= (shape, len(content))
    check_memory(open_inference, SCHEMA, head + content, len(head))


def test_an_output_cannot_be_asked_for_many_times() -> None:
    outputs = b",".join([b'{"name":"ids"}'] * 5_000)
    body = b'{"inputs":[{%b,"data":[1]}],"outputs":[%b]}' % (TENSOR, outputs)
    with pytest.raises(RequestError) as caught:
        open_inference.decode(SCHEMA, SCOPE | {"headers": []}, body)
    assert caught.value.field == "outputs"


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
