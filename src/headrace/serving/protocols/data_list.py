"""A list in, a list out: what clients of model servers built on Ray Serve often send.

POST /{model}   {"data": [object or list of values, ...]} is answered by [value, ...]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from headrace.http.asgi import Scope
from headrace.http.responses import HttpError, error_body
from headrace.serving.prediction import Prediction
from headrace.serving.protocols.instances import decode_instances
from headrace.serving.protocols.json_schema import array_schema, list_schema, object_schema
from headrace.serving.protocols.port import DecodedRequest, PredictRoute, Response
from headrace.serving.request_schema import InstanceSchema

__all__ = ["ROUTES", "decode", "encode_error"]

_encode = msgspec.json.Encoder().encode


def decode(schema: InstanceSchema, scope: Scope, body: bytes) -> DecodedRequest:
    """Decodes `{"data": [instance, ...]}`.

    Raises:
        HttpError: 400: the body is not JSON, or the request has a query.
        MissingField, UnknownField, WrongValue: an instance does not fit the schema.
    """
    if scope["query_string"]:
        raise HttpError(400, "query", "This protocol has no query parameters.")
    return DecodedRequest(decode_instances(schema, body, "data"), _encode_predictions)


def encode_error(error: HttpError) -> bytes:
    """`{"error": {"code", "message", "field"?, ...}}`."""
    return error_body(error)


def _encode_predictions(predictions: Sequence[Prediction]) -> Response:
    return Response(_encode([prediction.value for prediction in predictions]))


def _body_schema(instance: dict[str, Any]) -> dict[str, Any]:
    return object_schema(data=array_schema(instance))


ROUTES = (PredictRoute("/{model}", decode, _body_schema, list_schema({}), "Predict a list", "data"),)
"""The routes of this protocol."""
