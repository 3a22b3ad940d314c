"""Decodes the instances of a JSON body, for the protocols whose instances are objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple
from weakref import WeakKeyDictionary

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from headrace.http.responses import HttpError
from headrace.serving.errors import MissingField, RequestError, UnknownField, WrongValue
from headrace.serving.request_schema import InstanceSchema

__all__ = ["MAX_INSTANCES", "decode_instance", "decode_instances", "has_instances"]

MAX_INSTANCES = 1_000
"""The largest number of instances in a request."""
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
    """Decoders of one instance and of a body with several, for one schema."""

    instance: msgspec.json.Decoder[Any]
    instances: msgspec.json.Decoder[Any]


_decoders: WeakKeyDictionary[InstanceSchema, _Decoders] = WeakKeyDictionary()


def decode_instance(schema: InstanceSchema, body: bytes) -> list[dict[str, Any]]:
    """Decodes a body that is one instance. Raises like `decode_instances`."""
    return _decode(schema, body, lambda body: [_find_decoders(schema).instance.decode(body)])


def decode_instances(schema: InstanceSchema, body: bytes) -> list[dict[str, Any]]:
    """Decodes `{"instances": [object, ...]}`, a body with 1 to MAX_INSTANCES instances and nothing else.

    Returns:
        field → value of each instance, as InstanceSchema.to_values returns them.

    Raises:
        HttpError: 400: the body is not JSON.
        MissingField, UnknownField, WrongValue: an instance does not fit the schema.
    """
    return _decode(schema, body, lambda body: _find_decoders(schema).instances.decode(body).instances)


def has_instances(body: bytes) -> bool:
    """Whether the body is an object with a member `instances`. Raises HttpError where it is not JSON."""
    return b'"instances"' in body and _call(_decode_outline, body).instances is not UNSET


def _decode(
    schema: InstanceSchema, body: bytes, decode: Callable[[bytes], Sequence[Struct]]
) -> list[dict[str, Any]]:
    return schema.to_values(_call(decode, body))


def _call(decode: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HttpError(400, "not_json", f"The body is not JSON: {error}") from error


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
