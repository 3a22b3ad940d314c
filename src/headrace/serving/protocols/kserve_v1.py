"""KServe's V1 protocol (https://kserve.github.io/website, "V1 Inference Protocol").

POST /v1/models/{model}:predict   {"instances": [object, ...]} is answered by {"predictions": [value, ...]}
GET  /v1/models                   {"models": [name, ...]}
GET  /v1/models/{model}           {"name": name, "ready": true}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from headrace.http.asgi import Scope
from headrace.http.responses import HttpError
from headrace.serving.models import Models
from headrace.serving.prediction import Prediction
from headrace.serving.protocols.instances import decode_instances
from headrace.serving.protocols.port import DecodedRequest, PredictRoute, ReadRoute
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
    return DecodedRequest(decode_instances(schema, body), _encode_predictions)


def encode_error(error: HttpError) -> bytes:
    """`{"error": "instances[1].store: ..."}`: one text, as KServe's servers answer."""
    names_field = error.field is not None and error.status != 404  # the path names a model that is not there
    return _encode({"error": f"{error.field}: {error.message}" if names_field else error.message})


def _encode_predictions(predictions: Sequence[Prediction]) -> bytes:
    return _encode({"predictions": [prediction.value for prediction in predictions]})


def _read_models(models: Models, _names: Mapping[str, str]) -> bytes:
    return _encode({"models": models.names})


def _read_model(models: Models, names: Mapping[str, str]) -> bytes:
    models.find(names["model"])
    return _encode({"name": names["model"], "ready": True})


ROUTES = (
    PredictRoute("/v1/models/{model}:predict", decode),
    ReadRoute("/v1/models", _read_models),
    ReadRoute("/v1/models/{model}", _read_model),
)
"""The routes of this protocol."""
