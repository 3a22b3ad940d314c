"""Signature: what a model takes, and which instances fit it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serving.mlflow_models.artifact import write_artifact

from headrace.http.responses import HttpError
from headrace.kernel.errors import Refused
from headrace.serving.errors import RequestError
from headrace.serving.mlflow_models.signature import (
    Column,
    Signature,
    SignatureSchema,
    read_signature,
    to_columns,
)
from headrace.serving.protocols.instances import decode_instances
from headrace.serving.protocols.status import to_response_error

TYPES = ("double", "float", "long", "integer", "boolean", "string", "datetime", "binary", "any")
ALL = Signature([Column(f"a {type_}", type_, required=type_ != "any") for type_ in TYPES])
XY = SignatureSchema(Signature([Column("x", "double"), Column("y", "long")]))
GOOD: dict[str, Any] = {
    "a double": 1.5,
    "a float": 1,
    "a long": 2**63 - 1,
    "a integer": -(2**31),
    "a boolean": True,
    "a string": "ü",
    "a datetime": "2026-01-01T12:00:00+02:00",
    "a binary": "aGk=",
}


def decode(schema: SignatureSchema, rows: Any) -> list[dict[str, Any]]:
    return decode_instances(schema, json.dumps({"data": rows}).encode(), "data")


def error_of(schema: SignatureSchema, body: bytes) -> HttpError:
    with pytest.raises((HttpError, RequestError)) as caught:
        decode_instances(schema, body, "data")
    return to_response_error(caught.value, "data")


@pytest.mark.parametrize(
    ("inputs", "signature"),
    [
        (None, Signature()),
        ([{"type": "double", "name": "x", "required": True}], Signature([Column("x", "double")])),
        ([{"type": "long", "name": "x", "required": False}], Signature([Column("x", "long", required=False)])),
        ([{"type": "array", "items": {"type": "long"}, "name": "x"}], Signature([Column("x", "any")])),
        (
            [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}],
            Signature([Column("0", "double"), Column("1", "double")], "float64"),
        ),
    ],
)
def test_a_signature_is_read_from_the_artefact(tmp_path: Path, inputs: Any, signature: Signature) -> None:
    assert read_signature(write_artifact(tmp_path / "a", inputs=inputs)) == signature


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([{"type": "double"}], "columns without names"),
        ([{"type": "double", "name": "x"}] * 2, "two columns of one name"),
        ([{"type": "tensor", "name": "x", "tensor-spec": {}}] * 2, "several tensors"),
        ([{"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": [-1, 2]}}], "a tensor of uint8"),
        ([{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 28, 28]}}], r"\[-1, 28, 28\]"),
        ([{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, -1]}}], r"\[-1, -1\]"),
        ([{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 10**9]}}], "a tensor of"),
        ([{"type": "tensor", "tensor-spec": {"dtype": [], "shape": None}}], "a tensor that is not valid"),
        ([{"type": "tensor"}], "a tensor that is not valid"),
        ({"a": 1}, "it is not valid"),
    ],
)
def test_inputs_that_cannot_be_served_are_refused(tmp_path: Path, inputs: Any, message: str) -> None:
    with pytest.raises(Refused, match=message):
        read_signature(write_artifact(tmp_path / "a", inputs=inputs))


def test_a_model_without_the_flavor_that_loads_it_is_refused(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path / "a")
    (artifact / "MLmodel").write_text("flavors: {sklearn: {}}\n")
    with pytest.raises(Refused, match="no flavor python_function"):
        read_signature(artifact)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("flavors: 5\n", "no flavor python_function"),
        ("flavors: [python_function]\n", "no flavor python_function"),
        ("flavors: {python_function: {}}\nsignature: text\n", "signature: it is not valid"),
        ("flavors: {python_function: {}}\nsignature: [1]\n", "signature: it is not valid"),
        ("flavors: {python_function: {}}\nsignature: {inputs: 5}\n", "signature: it is not valid"),
        ("flavors: {python_function: {}}\nsignature: {inputs: '[]'}\n", "the model takes no columns"),
        (f"flavors: {{python_function: {{}}}}\nsignature: {{inputs: '{'[' * 5_000}'}}\n", "it is not valid"),
        ("flavors: {python_function: {}}\nwhen: 2026-13-45\nsignature: {inputs: 1}", "it is not valid"),
    ],
)
def test_a_broken_mlmodel_is_refused(tmp_path: Path, content: str, message: str) -> None:
    artifact = write_artifact(tmp_path / "a")
    (artifact / "MLmodel").write_text(content)
    with pytest.raises(Refused, match=message):
        read_signature(artifact)


@pytest.mark.parametrize("signature", ["", "signature: null\n", "signature: {inputs: null, outputs: '[]'}\n"])
def test_a_model_may_state_no_inputs(tmp_path: Path, signature: str) -> None:
    artifact = write_artifact(tmp_path / "a")
    (artifact / "MLmodel").write_text("flavors: {python_function: {}}\n" + signature)
    assert read_signature(artifact) == Signature()


def test_an_instance_has_the_values_that_the_process_gets() -> None:
    (row,) = decode(SignatureSchema(ALL), [GOOD])
    assert row == {**GOOD, "a float": 1.0, "a datetime": "2026-01-01T10:00:00", "a binary": b"hi"}


def test_an_instance_may_be_a_list_of_the_values() -> None:
    assert decode(XY, [[1, 2], {"y": 4, "x": 3}]) == [{"x": 1.0, "y": 2}, {"x": 3.0, "y": 4}]
    assert to_columns(decode(XY, [[1, 2], [3, 4]])) == {"x": [1.0, 3.0], "y": [2, 4]}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("a double", "1"),
        ("a double", True),
        ("a double", []),
        ("a float", 1e39),
        ("a long", 2**63),
        ("a long", 1.5),
        ("a long", None),
        ("a integer", 2**31),
        ("a boolean", 1),
        ("a boolean", None),
        ("a string", 1),
        ("a datetime", "yesterday"),
        ("a datetime", 1),
        ("a datetime", "1677-12-31T23:59:59Z"),
        ("a datetime", "2262-01-01T00:00:01"),
        ("a datetime", "0001-01-01T00:00:00+05:00"),
        ("a datetime", "9999-12-31T23:59:59-05:00"),
        ("a binary", "not base64!"),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_field(field: str, value: Any) -> None:
    error = error_of(SignatureSchema(ALL), json.dumps({"data": [GOOD, {**GOOD, field: value}]}).encode())
    assert (error.status, error.field) == (422, f"data[1].{field}")


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b'{"data": [{"x": 1, "y": 2, "z": 3}]}', 422, "extra", "data[0].z"),
        (b'{"data": [{"x": 1}]}', 422, "missing", "data[0].y"),
        (b'{"data": [{"x": 1, "y": 2}, {}]}', 422, "missing", "data[1].x"),
        (b'{"data": [[1, 2], [1]]}', 422, "wrong_value", "data[1]"),
        (b'{"data": [[1, 2], [1, 2, 3]]}', 422, "wrong_value", "data[1]"),
        (b'{"data": [[1, 2], [1, "2"]]}', 422, "wrong_value", "data[1].y"),
        (b'{"data": [5]}', 422, "wrong_value", "data[0]"),
        (b'{"data": []}', 422, "wrong_value", "data"),
        (b'{"data": {"x": 1, "y": 2}}', 422, "wrong_value", "data"),
        (b"{}", 422, "missing", "data"),
        (b'{"rows": []}', 422, "extra", "rows"),
        (b'{"data": [[1, 2]], "more": 1}', 422, "extra", "more"),
        (b'{"data": [[NaN, 2]]}', 400, "not_json", None),
        (b'{"data": [[Infinity, 2]]}', 400, "not_json", None),
        (b'{"data": [[1e400, 2]]}', 422, "wrong_value", "data[0][0]"),
        (b'{"data": [{"x": 1e400, "y": 2}]}', 422, "wrong_value", "data[0].x"),
        (b'{"data": [[1, 2]]', 400, "not_json", None),
        (b"\xff", 400, "not_json", None),
        (b'{"data": [' + b"[" * 10_000 + b"]" * 10_000 + b"]}", 422, "wrong_value", "data[0][0]"),
        (b'{"data": [' + b"[1,2]," * 10_000 + b"[1,2]]}", 422, "wrong_value", "data"),
    ],
)
def test_an_invalid_body_is_refused_and_its_field_named(
    body: bytes, status: int, code: str, field: str | None
) -> None:
    error = error_of(XY, body)
    assert (error.status, error.code, error.field) == (status, code, field)


def test_without_a_signature_instances_have_equal_fields_of_any_kind() -> None:
    schema = SignatureSchema(Signature())
    assert decode(schema, [{"a": 1, "b": [2]}, {"b": None, "a": "x"}]) == [
        {"a": 1, "b": [2]},
        {"b": None, "a": "x"},
    ]
    error = error_of(schema, b'{"data": [{"a": 1}, {"a": 1, "b": 2}]}')
    assert (error.status, error.field) == (422, "data[1].b")
    assert error_of(schema, b'{"data": [{}]}').status == 422
    assert error_of(schema, b'{"data": [[1]]}').status == 422


def test_an_optional_column_is_in_all_instances_or_in_none() -> None:
    schema = SignatureSchema(Signature([Column("x", "double"), Column("n", "long", required=False)]))
    assert decode(schema, [{"x": 1}, {"x": 2}]) == [{"x": 1.0}, {"x": 2.0}]
    assert decode(schema, [{"x": 1, "n": 3}]) == [{"x": 1.0, "n": 3}]
    error = error_of(schema, b'{"data": [{"x": 1, "n": 1}, {"x": 2}]}')
    assert (error.code, error.field) == ("missing", "data[1].n")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_any_body_is_decoded_to_rows_that_fit_or_refused_as_the_clients_fault(value: Any) -> None:
    for body in (value, {"data": value}, {"data": [value]}):
        try:
            rows = decode_instances(XY, json.dumps(body).encode(), "data")
        except RequestError:
            continue
        for row in rows:
            assert row.keys() == {"x", "y"}
            assert row["x"] is None or type(row["x"]) is float
            assert type(row["y"]) is int
