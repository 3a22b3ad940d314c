"""The feature server.

POST /v1/features    {"service": name, "entities": [object, ...], "model": name?}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from headrace.http.asgi import Scope
from headrace.http.responses import HttpError, error_body
from headrace.serving.feature_server import ServiceFeatures, read_features
from headrace.serving.metrics import Metrics
from headrace.serving.models import Models
from headrace.serving.protocols.instances import decode_instances, decode_json
from headrace.serving.protocols.json_schema import TEXT, array_schema, object_schema, schema_of
from headrace.serving.protocols.port import PostRoute
from headrace.serving.request_schema import InstanceSchema

__all__ = ["ROUTES", "encode_error"]

_encode = msgspec.json.Encoder().encode


class _Body(Struct, forbid_unknown_fields=True):
    """A body; its entities are decoded once the service, and so their fields, are known."""

    service: str
    entities: msgspec.Raw
    model: str | UnsetType = UNSET


_decode_body = msgspec.json.Decoder(_Body).decode


def encode_error(error: HttpError) -> bytes:
    """`{"error": {"code", "message", "field"?, ...}}`."""
    return error_body(error)


def _answer(models: Models, metrics: Metrics, scope: Scope, body: bytes) -> bytes:
    if scope["query_string"]:
        raise HttpError(400, "query", "This path has no query parameters.")
    request = decode_json(_decode_body, body)
    model = None if request.model is UNSET else request.model
    service = models.find_service(request.service, model)
    entities = decode_instances(service.schema, b'{"entities":%b}' % bytes(request.entities), "entities")
    return _encode(read_features(service, entities, metrics))


def _describe_body(
    models: Models, describe_entity: Callable[[InstanceSchema], dict[str, Any]]
) -> dict[str, Any]:
    """The JSON schema of a body: one form for each service and model."""
    forms = [
        object_schema(
            optional=["model"],
            service={"const": service.plan.service},
            entities=array_schema(describe_entity(service.schema)),
            model={"const": service.plan.model},
        )
        for service in models.services
    ]
    return {"anyOf": forms} if forms else object_schema(service=TEXT, entities={"type": "array"})


ROUTES = (
    PostRoute(
        "/v1/features",
        _answer,
        _describe_body,
        schema_of(ServiceFeatures),
        "Read the features of entities",
        "entities",
    ),
)
"""The routes of this protocol."""
