"""Headrace's own protocol.

POST /predict/{model}    one object, or {"instances": [object, ...]}; ?explain=1 adds the features,
                         ?as_of=2026-03-01T12:00:00Z answers for a past moment (serving.as_of)
GET  /models             the released versions, the MLflow models, and the releases that could not be activated
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from headrace.http.asgi import Scope
from headrace.http.responses import HttpError, error_body
from headrace.serving.models import Models
from headrace.serving.prediction import Prediction
from headrace.serving.protocols.instances import decode_instance, decode_instances, has_instances
from headrace.serving.protocols.json_schema import TEXT, array_schema, list_schema, object_schema
from headrace.serving.protocols.port import DecodedRequest, PredictRoute, ReadRoute, Response
from headrace.serving.request_schema import InstanceSchema

__all__ = ["ROUTES", "decode", "encode_error"]

_encode = msgspec.json.Encoder().encode


def decode(schema: InstanceSchema, scope: Scope, body: bytes) -> DecodedRequest:
    """Decodes one object, or `{"instances": [object, ...]}`.

    Raises:
        HttpError: 400: the body is not JSON, or the query is not `explain=1`.
        MissingField, UnknownField, WrongValue: an instance does not fit the schema.
    """
    explain = _is_explain(scope["query_string"])
    several = has_instances(body)
    instances = decode_instances(schema, body) if several else decode_instance(schema, body)
    encode = partial(_encode_predictions, several=several, explain=explain)
    return DecodedRequest(instances, encode)


def encode_error(error: HttpError) -> bytes:
    """`{"error": {"code", "message", "field"?, ...}}`."""
    return error_body(error)


def _encode_predictions(predictions: Sequence[Prediction], *, several: bool, explain: bool) -> Response:
    bodies = [_prediction_body(prediction, explain) for prediction in predictions]
    return Response(_encode({"predictions": bodies} if several else bodies[0]))


def _body_schema(instance: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [instance, object_schema(instances=array_schema(instance))]}


_PREDICTION = object_schema(
    optional=["probabilities", "features"],
    id=TEXT,
    model=TEXT,
    version={"type": "integer"},
    arm=TEXT,
    value={},
    missing=list_schema(TEXT),
    probabilities={"type": "object", "additionalProperties": {"type": "number"}},
    features={"type": "object"},
)
_PAST = object_schema(
    model=TEXT,
    version={"type": "integer"},
    arm={"type": ["string", "null"]},
    as_of={**TEXT, "format": "date-time"},
    logged={"type": ["string", "null"]},
    value={},
    probabilities={"type": ["object", "null"]},
    missing=list_schema(TEXT),
    features={"type": "object"},
)
_ANSWER = {
    "anyOf": [
        form
        for answer in (_PREDICTION, _PAST)
        for form in (answer, object_schema(predictions=list_schema(answer)))
    ]
}


def _prediction_body(prediction: Prediction, explain: bool) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": prediction.id,
        "model": prediction.model,
        "version": prediction.version,
        "arm": prediction.arm,
        "value": prediction.value,
        "missing": prediction.missing,
    }
    if prediction.probabilities is not None:
        body["probabilities"] = prediction.probabilities
    if explain:
        body["features"] = prediction.features
    return body


def _is_explain(query: bytes) -> bool:
    """Whether the client asks for the features."""
    if query not in (b"", b"explain=0", b"explain=1"):
        raise HttpError(400, "query", "The only query parameters are explain, which must be 0 or 1, and as_of.")
    return query == b"explain=1"


def _read_models(models: Models, _names: Mapping[str, str]) -> bytes:
    released = {
        name: {
            "release": model.release,
            "fields": model.schema.fields,
            "split_key": model.split_key,
            "service": model.service.plan.service,
        }
        for name, model in sorted(models.released.items())
    }
    deployed = {
        name: {"version": model.deployed.version, "fields": model.schema.fields}
        for name, model in sorted(models.served.items())
    }
    problems = {"failed": models.failed, "unfilled": models.unfilled}
    return _encode({"models": released, "deployed": deployed, **problems})


ROUTES = (
    PredictRoute("/predict/{model}", decode, _body_schema, _ANSWER, "Predict", takes_as_of=True),
    ReadRoute("/models", _read_models, "The released models, with their fields and releases"),
)
"""The routes of this protocol."""
