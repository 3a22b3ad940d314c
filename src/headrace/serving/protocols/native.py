"""Headrace's own protocol.

POST /predict/{model}    one object, or {"instances": [object, ...]}; ?explain=1 adds the features
GET  /models             the released versions, and the releases that could not be activated
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple
from weakref import WeakKeyDictionary

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from headrace.http.asgi import Scope
from headrace.http.responses import HttpError, error_body
from headrace.serving.errors import MissingField, RequestError, UnknownField, WrongValue
from headrace.serving.models import Models
from headrace.serving.prediction import Prediction
from headrace.serving.protocols.port import DecodedRequest, PredictRoute, ReadRoute
from headrace.serving.request_schema import InstanceSchema

__all__ = ["MAX_INSTANCES", "ROUTES", "decode", "encode_error"]

MAX_INSTANCES = 1_000
"""The largest number of instances in a request."""
_encode = msgspec.json.Encoder().encode
_FIELD_NAME = re.compile(r"`([^`]+)`")
_INVALID = re.compile(  # msgspec's message, such as "Expected `int`, got `str` - at `$.instances[1].price`"
    r"(?P<what>.*?)(?: - at `\$(?:\.instances\[(?P<instance>\d+)\])?\.?(?P<field>[^`]*)`)?", re.DOTALL
)
_KINDS = {"Object missing required field": MissingField, "Object contains unknown field": UnknownField}


class _Outline(Struct):
    """A body, decoded only as far as needed to see whether it has several instances."""

    instances: msgspec.Raw | UnsetType = UNSET


_decode_outline = msgspec.json.Decoder(_Outline).decode


class _Decoders(NamedTuple):
    """Decoders of the two forms of a body, for one schema."""

    instance: msgspec.json.Decoder[Any]
    instances: msgspec.json.Decoder[Any]


_decoders: WeakKeyDictionary[InstanceSchema, _Decoders] = WeakKeyDictionary()


def _find_decoders(schema: InstanceSchema) -> _Decoders:
    """The schema's decoders, which are built once."""
    decoders = _decoders.get(schema)
    if decoders is None:
        decoders = _decoders[schema] = _build_decoders(schema)
    return decoders


def _build_decoders(schema: InstanceSchema) -> _Decoders:
    instances = Annotated[list[schema.instance_type], Meta(min_length=1, max_length=MAX_INSTANCES)]  # type: ignore[name-defined]
    body = msgspec.defstruct("Instances", [("instances", instances)], forbid_unknown_fields=True)
    return _Decoders(msgspec.json.Decoder(schema.instance_type), msgspec.json.Decoder(body))


def decode(schema: InstanceSchema, scope: Scope, body: bytes) -> DecodedRequest:
    """Decodes one object, or `{"instances": [object, ...]}`.

    Raises:
        HttpError: 400: the body is not JSON, or the query is not `explain=1`.
        MissingField, UnknownField, WrongValue: an instance does not fit the schema.
    """
    explain = _is_explain(scope["query_string"])
    decoders = _find_decoders(schema)
    try:
        several = b'"instances"' in body and _decode_outline(body).instances is not UNSET
        instances = decoders.instances.decode(body).instances if several else [decoders.instance.decode(body)]
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HttpError(400, "not_json", f"The body is not JSON: {error}") from error
    encode = partial(_encode_predictions, several=several, explain=explain)
    return DecodedRequest(schema.to_values(instances), encode)


def encode_error(error: HttpError) -> bytes:
    """`{"error": {"code", "message", "field"?, ...}}`."""
    return error_body(error)


def _encode_predictions(predictions: Sequence[Prediction], *, several: bool, explain: bool) -> bytes:
    bodies = [_prediction_body(prediction, explain) for prediction in predictions]
    return _encode({"predictions": bodies} if several else bodies[0])


def _prediction_body(prediction: Prediction, explain: bool) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": prediction.id,
        "model": prediction.model,
        "version": prediction.version,
        "arm": prediction.arm,
        "value": prediction.value,
        "missing": prediction.missing,
    }
    if explain:
        body["features"] = prediction.features
    return body


def _is_explain(query: bytes) -> bool:
    """Whether the client asks for the features."""
    if query not in (b"", b"explain=0", b"explain=1"):
        raise HttpError(400, "query", "The only query parameter is explain, which must be 0 or 1.")
    return query == b"explain=1"


def _invalid(text: str) -> RequestError:
    """The error for msgspec's message, which ends with the path of the value."""
    match = _INVALID.fullmatch(text)
    assert match is not None  # the pattern matches any text
    what, field = match["what"], match["field"] or None
    instance = None if match["instance"] is None else int(match["instance"])
    name = _FIELD_NAME.search(what)
    kind = next((kind for start, kind in _KINDS.items() if what.startswith(start)), None)
    if kind is None or name is None:
        return WrongValue(f"{what}.", field=field, instance=instance)
    return kind(f"{what}.", field=f"{field}.{name[1]}" if field else name[1], instance=instance)


def _read_models(models: Models, _names: Mapping[str, str]) -> bytes:
    released = {
        name: {"release": model.release, "fields": model.schema.fields, "split_key": model.split_key}
        for name, model in sorted(models.released.items())
    }
    return _encode({"models": released, "failed": models.failed})


ROUTES = (PredictRoute("/predict/{model}", decode), ReadRoute("/models", _read_models))
"""The routes of this protocol."""
