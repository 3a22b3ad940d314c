"""KServe's V1 protocol (https://kserve.github.io/website, "V1 Inference Protocol").

POST /v1/models/{model}:predict   {"instances": [object, ...]} is answered by {"predictions": [value, ...], ...}
GET  /v1/models                   {"models": [name, ...]}
GET  /v1/models/{model}           {"name": name, "ready": true}
GET  /                            {"status": "alive"}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from headrace.http.asgi import Scope
from headrace.http.responses import HttpError
from headrace.serving.models import Models
from headrace.serving.protocols.instances import decode_instances
from headrace.serving.protocols.json_schema import PARALLEL_ANSWER, array_schema, object_schema
from headrace.serving.protocols.port import DecodedRequest, PredictRoute, ReadRoute, encode_parallel
from headrace.serving.protocols.status import describe_error
from headrace.serving.request_schema import InstanceSchema

__all__ = ["ROUTES", "decode", "encode_error"]

_encode = msgspec.json.Encoder().encode


def decode(schema: InstanceSchema, scope: Scope, body: bytes) -> DecodedRequest:
    """Decodes `{"instances": [object, ...]}`.

    Raises:
        HttpError: 400: the body is not JSON, or the request has a query.
        MissingField, UnknownField, WrongValue: an instance does not fit the schema.
    """
    if scope["query_string"]:
        raise HttpError(400, "query", "This protocol has no query parameters.")
    return DecodedRequest(decode_instances(schema, body), encode_parallel)


def encode_error(error: HttpError) -> bytes:
    """`{"error": "instances[1].store: ..."}`: one text, as KServe's servers answer."""
    return _encode({"error": describe_error(error)})


def _body_schema(instance: dict[str, Any]) -> dict[str, Any]:
    return object_schema(instances=array_schema(instance))


def _read_models(models: Models, _names: Mapping[str, str]) -> bytes:
    return _encode({"models": models.names})


def _read_model(models: Models, names: Mapping[str, str]) -> bytes:
    models.check_ready(names["model"])
    return _encode({"name": names["model"], "ready": True})


def _read_status(_models: Models, _names: Mapping[str, str]) -> bytes:
    return _encode({"status": "alive"})


ROUTES = (
    PredictRoute("/v1/models/{model}:predict", decode, _body_schema, PARALLEL_ANSWER, "Predict (KServe V1)"),
    ReadRoute("/", _read_status, "Whether the server is alive (KServe V1)"),
    ReadRoute("/v1/models", _read_models, "The models (KServe V1)"),
    ReadRoute("/v1/models/{model}", _read_model, "Whether a model is ready (KServe V1)"),
)
"""The routes of this protocol."""
