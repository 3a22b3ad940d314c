"""MLflow's scoring protocol, with a path for each model (https://mlflow.org/docs, "Inference Server").

POST /{model}/invocations   one of dataframe_split, dataframe_records, instances and inputs; the answer is
                            {"predictions": [value, ...]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from headrace.http.asgi import Scope
from headrace.http.responses import HttpError
from headrace.serving.errors import WrongValue
from headrace.serving.prediction import Prediction
from headrace.serving.protocols.instances import convert_instances, decode_json
from headrace.serving.protocols.port import DecodedRequest, PredictRoute
from headrace.serving.request_schema import InstanceSchema

__all__ = ["ROUTES", "decode", "encode_error"]

_encode = msgspec.json.Encoder().encode
_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")


class _Split(Struct, forbid_unknown_fields=True):
    """A frame as pandas' `to_dict(orient="split")` writes it."""

    columns: list[str]
    data: list[list[Any]]
    index: Any = None


class _Invocation(Struct, forbid_unknown_fields=True):
    """A body."""

    dataframe_split: _Split | UnsetType = UNSET
    dataframe_records: list[Any] | UnsetType = UNSET
    instances: list[Any] | UnsetType = UNSET
    inputs: list[Any] | dict[str, list[Any]] | UnsetType = UNSET


_decode_invocation = msgspec.json.Decoder(_Invocation).decode


def decode(schema: InstanceSchema, scope: Scope, body: bytes) -> DecodedRequest:
    """Decodes a body of one of the four forms.

    Raises:
        HttpError: 400: the body is not JSON, or the request has a query.
        MissingField, UnknownField, WrongValue: the form is another, or an instance does not fit the schema.
    """
    if scope["query_string"]:
        raise HttpError(400, "query", "This protocol has no query parameters.")
    invocation: _Invocation = decode_json(_decode_invocation, body)
    given = [name for name in _FORMS if getattr(invocation, name) is not UNSET]
    if len(given) != 1:
        raise WrongValue(f"The body must have one of {', '.join(_FORMS)}.")
    rows = _to_rows(getattr(invocation, given[0]), given[0])
    return DecodedRequest(convert_instances(schema, rows), _encode_predictions)


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


def _encode_predictions(predictions: Sequence[Prediction]) -> bytes:
    return _encode({"predictions": [prediction.value for prediction in predictions]})


ROUTES = (PredictRoute("/{model}/invocations", decode, "rows"),)
"""The routes of this protocol."""
