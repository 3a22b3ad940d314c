"""MLflow's scoring protocol (https://mlflow.org/docs, "Inference Server").

POST /{model}/invocations   one of dataframe_split, dataframe_records, instances and inputs; the answer is
                            {"predictions": [value, ...], ...}
POST /invocations           the same, where only one model answers
GET  /ping, /health         an empty line, if a model answers
GET  /version               the version of MLflow that wrote the models
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from headrace.http.asgi import Scope
from headrace.http.responses import HttpError
from headrace.serving.errors import WrongValue
from headrace.serving.models import Models
from headrace.serving.protocols.counting import MAX_INSTANCES, CountedList, CountedObject, check_number
from headrace.serving.protocols.instances import convert_instances, decode_json
from headrace.serving.protocols.json_schema import (
    PARALLEL_ANSWER,
    TEXT,
    array_schema,
    list_schema,
    object_schema,
)
from headrace.serving.protocols.port import DecodedRequest, PredictRoute, ReadRoute, encode_parallel
from headrace.serving.request_schema import InstanceSchema

__all__ = ["ROUTES", "decode", "encode_error"]

_encode = msgspec.json.Encoder().encode
_TEXT_OR_NAN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|NaN', re.DOTALL)
_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")


class _Split(Struct, forbid_unknown_fields=True):
    """A frame as pandas' `to_dict(orient="split")` writes it."""

    columns: list[str]
    data: list[list[Any]]
    index: Any = None


class _Invocation(Struct, forbid_unknown_fields=True):
    """A body. Models here have no `params`: they may be null or empty."""

    dataframe_split: _Split | UnsetType = UNSET
    dataframe_records: list[Any] | UnsetType = UNSET
    instances: list[Any] | UnsetType = UNSET
    inputs: list[Any] | dict[str, list[Any]] | UnsetType = UNSET
    params: Annotated[dict[str, Any], Meta(max_length=0)] | None = None


_decode_invocation = msgspec.json.Decoder(_Invocation).decode
_Row = TypeVar("_Row")


class _SplitOutline(Struct, Generic[_Row]):
    """A split frame of which only the rows are looked at."""

    data: list[_Row]


class _Outline(Struct, Generic[_Row]):
    """A body of which only the rows are looked at."""

    dataframe_split: _SplitOutline[_Row] | UnsetType = UNSET
    dataframe_records: list[_Row] | UnsetType = UNSET
    instances: list[_Row] | UnsetType = UNSET
    inputs: list[_Row] | msgspec.Raw | UnsetType = UNSET


_OUTLINES: list[Callable[[bytes], Any]] = [
    msgspec.json.Decoder(_Outline[CountedObject]).decode,
    msgspec.json.Decoder(_Outline[CountedList]).decode,
]


def _replace_nan(body: bytes) -> bytes:
    """The body with null in place of NaN, as MLflow's client and pandas write a missing value."""
    if b"NaN" not in body:
        return body
    return _TEXT_OR_NAN.sub(lambda match: b"null" if match[0] == b"NaN" else match[0], body)


def decode(schema: InstanceSchema, scope: Scope, body: bytes) -> DecodedRequest:
    """Decodes a body of one of the four forms.

    Raises:
        HttpError: 400: the body is not JSON, or the request has a query.
        MissingField, UnknownField, WrongValue: the form is another, or an instance does not fit the schema.
    """
    if scope["query_string"]:
        raise HttpError(400, "query", "This protocol has no query parameters.")
    check_number(body.replace(b"NaN", b"111"), _OUTLINES, None)  # any value as long
    invocation: _Invocation = decode_json(_decode_invocation, _replace_nan(body))
    given = [name for name in _FORMS if getattr(invocation, name) is not UNSET]
    if len(given) != 1:
        raise WrongValue(f"The body must have one of {', '.join(_FORMS)}.")
    rows = _to_rows(getattr(invocation, given[0]), given[0])
    return DecodedRequest(convert_instances(schema, rows), encode_parallel)


def encode_error(error: HttpError) -> bytes:
    """`{"error_code", "message"}`, as MLflow's servers answer; the message begins with the field."""
    message = error.message if error.field is None else f"{error.field}: {error.message}"
    return _encode({"error_code": error.code, "message": message})


def _to_rows(value: _Split | Mapping[str, list[Any]] | list[Any], form: str) -> list[Any]:
    """The rows of a frame, or of columns."""
    if isinstance(value, list):
        return value
    columns = value.columns if isinstance(value, _Split) else list(value)
    if len(set(columns)) != len(columns):
        raise WrongValue(f"A column of {form} occurs twice.")
    rows = value.data if isinstance(value, _Split) else next(iter(value.values()), [])
    if len(rows) > MAX_INSTANCES:  # before each of them is made an object
        raise WrongValue(f"Expected `array` of length <= {MAX_INSTANCES}.")
    if isinstance(value, _Split):
        cells = value.data
    elif len({len(values) for values in value.values()}) <= 1:
        cells = list(map(list, zip(*value.values(), strict=True)))
    else:
        raise WrongValue(f"The columns of {form} have different numbers of values.")
    for index, row in enumerate(cells):
        if len(row) != len(columns):
            raise WrongValue(
                f"The row has {len(row)} values, and there are {len(columns)} columns.", instance=index
            )
    return [dict(zip(columns, row, strict=True)) for row in cells]


def _body_schema(instance: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {"type": "array"}
    records = array_schema(instance)
    split = object_schema(optional=["index"], columns=list_schema(TEXT), data=list_schema(values), index=values)
    return {
        "oneOf": [
            object_schema(dataframe_split=split),
            object_schema(dataframe_records=records),
            object_schema(instances=records),
            object_schema(inputs={"anyOf": [records, {"type": "object", "additionalProperties": values}]}),
        ]
    }


def _read_ping(models: Models, _names: Mapping[str, str]) -> bytes:
    if not models.names:
        raise HttpError(404, "not_ready", "No model answers.")
    return b"\n"


@cache
def _mlflow_version() -> bytes:
    return version("mlflow").encode()


ROUTES = (
    PredictRoute("/{model}/invocations", decode, _body_schema, PARALLEL_ANSWER, "Predict (MLflow)", "rows"),
    PredictRoute(
        "/invocations", decode, _body_schema, PARALLEL_ANSWER, "Predict with the only model (MLflow)", "rows"
    ),
    ReadRoute("/ping", _read_ping, "Whether a model answers (MLflow)"),
    ReadRoute("/health", _read_ping, "Whether a model answers (MLflow)"),
    ReadRoute("/version", lambda _models, _names: _mlflow_version(), "MLflow's version"),
)
"""The routes of this protocol."""
