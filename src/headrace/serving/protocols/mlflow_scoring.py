"""MLflow's scoring protocol (https://mlflow.org/docs, "Inference Server").

POST /{model}/invocations   one of dataframe_split, dataframe_records, instances and inputs; the answer is
                            {"predictions": [value, ...], ...}
POST /invocations           the same, where only one model answers
GET  /ping, /health         an empty line, if a model answers
GET  /version               the version of MLflow that wrote the models
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from importlib.metadata import version
from types import GenericAlias
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from headrace.http.asgi import Scope
from headrace.http.responses import HttpError
from headrace.serving.errors import RequestError, WrongValue
from headrace.serving.models import Models
from headrace.serving.protocols.counting import (
    MAX_INSTANCES,
    CountedList,
    CountedObject,
    check_number,
    has_more_values,
    mask_escapes,
)
from headrace.serving.protocols.instances import convert_instances, decode_json, decode_rows
from headrace.serving.protocols.json_schema import (
    PARALLEL_ANSWER,
    TEXT,
    array_schema,
    list_schema,
    object_schema,
)
from headrace.serving.protocols.port import DecodedRequest, PredictRoute, ReadRoute, encode_parallel
from headrace.serving.request_schema import InstanceSchema, cell_type, takes_lists

__all__ = ["ROUTES", "decode", "encode_error"]

_encode = msgspec.json.Encoder().encode
_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_SHAPES = 256  # of rows, whose decoders are kept
_WIDEST = 10_000  # columns of a frame
_AT_MOST = Meta(max_length=MAX_INSTANCES)


class _Split(Struct, forbid_unknown_fields=True):
    """A frame as pandas' `to_dict(orient="split")` writes it. Its index counts for nothing."""

    columns: list[str]
    data: Raw
    index: Raw | UnsetType = UNSET


class _NoParams(Struct, forbid_unknown_fields=True):
    """Models here have no `params`."""


class _Invocation(Struct, forbid_unknown_fields=True):
    """A body. What is large in it is decoded once the columns are known."""

    dataframe_split: _Split | UnsetType = UNSET
    dataframe_records: Raw | UnsetType = UNSET
    instances: Raw | UnsetType = UNSET
    inputs: Raw | UnsetType = UNSET
    params: _NoParams | None = None


_decode_invocation = msgspec.json.Decoder(_Invocation).decode
_decode_columns = msgspec.json.Decoder(dict[str, Raw]).decode
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
    characters = np.frombuffer(body, np.uint8)
    is_text = np.logical_xor.accumulate(np.frombuffer(mask_escapes(body), np.uint8) == ord('"'))
    starts = np.flatnonzero(characters[:-2] == ord("N"))
    starts = starts[(characters[starts + 1] == ord("a")) & (characters[starts + 2] == ord("N"))]
    starts = starts[~is_text[starts]]
    replaced = np.insert(characters, starts + 3, ord("l"))
    starts += np.arange(len(starts))
    for place, character in enumerate(b"nul"):
        replaced[starts + place] = character
    return replaced.tobytes()


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
    (form,) = given
    value: _Split | Raw = getattr(invocation, form)
    if isinstance(value, _Split):
        instances = convert_instances(schema, _decode_split(schema, value))
    elif form == "inputs" and bytes(value).startswith(b"{"):
        instances = convert_instances(schema, _decode_inputs(schema, value))
    elif bytes(value).startswith(b"["):
        instances = decode_rows(schema, bytes(value))
    else:
        raise WrongValue("Expected `array`.", field=form)
    return DecodedRequest(instances, encode_parallel)


def encode_error(error: HttpError) -> bytes:
    """`{"error_code", "message"}`, as MLflow's servers answer; the message begins with the field."""
    message = error.message if error.field is None else f"{error.field}: {error.message}"
    return _encode({"error_code": error.code, "message": message})


def _decode_split(schema: InstanceSchema, frame: _Split) -> list[dict[str, Any]]:
    """The rows of a frame."""
    columns = frame.columns
    if len(columns) > _WIDEST:
        raise WrongValue(f"A frame may have {_WIDEST:,} columns at most.", field="dataframe_split.columns")
    if len(set(columns)) != len(columns):
        raise WrongValue("A column of dataframe_split occurs twice.")
    decode = _make_row_decoder(tuple(schema.find_dtype(name) for name in columns))
    rows: list[tuple[Any, ...]] = decode_json(decode, bytes(frame.data), None)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _decode_inputs(schema: InstanceSchema, inputs: Raw) -> list[dict[str, Any]]:
    """The rows of columns."""
    columns: dict[str, list[Any]] = {}
    for name, values in decode_json(_decode_columns, bytes(inputs)).items():
        try:
            columns[name] = _decode_column(schema.find_dtype(name), bytes(values))
        except RequestError as error:
            error.field = name
            raise
    if len({len(values) for values in columns.values()}) > 1:
        raise WrongValue("The columns of inputs have different numbers of values.")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _decode_column(dtype: str, values: bytes) -> list[Any]:
    if not takes_lists(dtype) and has_more_values(values, MAX_INSTANCES):
        raise WrongValue(f"Expected `array` of length <= {MAX_INSTANCES}.")
    column: list[Any] = decode_json(_make_column_decoder(dtype), values, None)
    return column


@lru_cache(_SHAPES)
def _make_row_decoder(dtypes: tuple[str, ...]) -> Callable[[bytes], Any]:
    """Decodes rows of cells, each for a column of this dtype. A row of another length is refused where it
    ends."""
    row: Any = GenericAlias(tuple, tuple(map(cell_type, dtypes)))
    return msgspec.json.Decoder(Annotated[GenericAlias(list, (row,)), _AT_MOST]).decode


@lru_cache(_SHAPES)
def _make_column_decoder(dtype: str) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(Annotated[GenericAlias(list, (cell_type(dtype),)), _AT_MOST]).decode


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
