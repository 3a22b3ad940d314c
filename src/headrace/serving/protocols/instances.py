"""Decodes the instances of a JSON body, for the protocols whose instances are objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from headrace.http.responses import HttpError
from headrace.serving.errors import MissingField, RequestError, UnknownField, WrongValue
from headrace.serving.protocols.counting import MAX_INSTANCES, CountedList, CountedObject, check_number
from headrace.serving.request_schema import InstanceSchema

__all__ = [
    "convert_instances",
    "decode_instance",
    "decode_instances",
    "decode_json",
    "decode_rows",
    "has_instances",
]

_FIELD_NAME = re.compile(r"`([^`]+)`")
_KINDS = {"Object missing required field": MissingField, "Object contains unknown field": UnknownField}
_WHOLE_BODY = ""  # in place of a member's name: the body is one instance
_ROWS = None  # in place of a member's name: the JSON is a list of instances
_Decode = Callable[[bytes], Any]


class _Outline(Struct):
    """A body, decoded only as far as needed to see whether it has several instances."""

    instances: msgspec.Raw | UnsetType = UNSET


_decode_outline = msgspec.json.Decoder(_Outline).decode
_decoders: WeakKeyDictionary[InstanceSchema, dict[str | None, _Decode]] = WeakKeyDictionary()


def decode_instance(schema: InstanceSchema, body: bytes) -> list[dict[str, Any]]:
    """Decodes a body that is one instance. Raises like `decode_instances`."""
    return schema.to_values([decode_json(_find_decoder(schema, _WHOLE_BODY), body)])


def decode_instances(schema: InstanceSchema, body: bytes, member: str = "instances") -> list[dict[str, Any]]:
    """Decodes `{"instances": [object, ...]}`, a body with 1 to MAX_INSTANCES instances and nothing else.

    Args:
        schema: the fields of an instance.
        body: the body.
        member: the name of the member that has the instances.

    Returns:
        field → value of each instance, as InstanceSchema.to_values returns them.

    Raises:
        HttpError: 400: the body is not JSON.
        MissingField, UnknownField, WrongValue: an instance does not fit the schema.
    """
    check_number(body, _find_outlines(member), member)
    decoded = decode_json(_find_decoder(schema, member), body, member)
    return _to_values(schema, getattr(decoded, member))


def decode_rows(schema: InstanceSchema, rows: bytes) -> list[dict[str, Any]]:
    """Decodes a JSON list of instances, which have been counted. Returns and raises like `decode_instances`."""
    return _to_values(schema, decode_json(_find_decoder(schema, _ROWS), rows, _ROWS))


def convert_instances(schema: InstanceSchema, rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Converts decoded JSON, 1 to MAX_INSTANCES instances. Returns and raises like `decode_instances`."""
    *first, last = schema.instance_types
    for type_ in first:
        try:
            return _to_values(schema, msgspec.convert(rows, _several(type_)))
        except msgspec.ValidationError:
            continue
    try:
        return _to_values(schema, msgspec.convert(rows, _several(last)))
    except msgspec.ValidationError as error:
        raise _invalid(str(error), None) from error


def has_instances(body: bytes) -> bool:
    """Whether the body is an object with a member `instances`. Raises HttpError where it is not JSON."""
    if b'"instances"' not in body or not body.lstrip().startswith(b"{"):
        return False
    return decode_json(_decode_outline, body).instances is not UNSET


def decode_json(decode: _Decode, body: bytes, member: str | None = _WHOLE_BODY) -> Any:
    """Decodes a body by a decoder of msgspec, and explains why it cannot be decoded.

    Args:
        decode: the decoder.
        body: the body.
        member: the member that has the instances; None: the whole value is a list of them.

    Raises:
        HttpError, MissingField, UnknownField, WrongValue: as `decode_instances`.
    """
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), member) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HttpError(400, "not_json", f"The body is not JSON: {error}") from error


def _to_values(schema: InstanceSchema, instances: Sequence[Any]) -> list[dict[str, Any]]:
    """The values of a list of instances. Its errors name the instance, even if there is only one."""
    try:
        return schema.to_values(instances)
    except RequestError as error:
        error.instance = error.instance or 0
        raise


def _find_decoder(schema: InstanceSchema, member: str | None) -> _Decode:
    """Decodes bodies with this member to the first of the schema's types that they fit. It is built once."""
    decoders = _decoders.setdefault(schema, {})
    decode = decoders.get(member)
    if decode is None:
        types = [_body_type(type_, member) for type_ in schema.instance_types]
        decode = decoders[member] = _decode_first([msgspec.json.Decoder(type_).decode for type_ in types])
    return decode


@cache
def _find_outlines(member: str) -> list[_Decode]:
    """Decoders that count the instances of this member."""
    types: tuple[Any, ...] = (list[CountedObject], list[CountedList])
    outlines = [msgspec.defstruct("Outline", [(member, type_)]) for type_ in types]
    return [msgspec.json.Decoder(outline).decode for outline in outlines]


def _decode_first(decoders: Sequence[_Decode]) -> _Decode:
    first, *others = decoders

    def decode(body: bytes) -> Any:
        try:
            return first(body)
        except msgspec.ValidationError:
            if not others:
                raise
        return _decode_first(others)(body)

    return decode


def _body_type(instance_type: Any, member: str | None) -> Any:
    if member == _WHOLE_BODY:
        return instance_type
    if member is None:
        return _several(instance_type)
    return msgspec.defstruct("Instances", [(member, _several(instance_type))], forbid_unknown_fields=True)


def _several(instance_type: Any) -> Any:
    return Annotated[list[instance_type], Meta(min_length=1, max_length=MAX_INSTANCES)]


@cache
def _pattern(member: str | None) -> re.Pattern[str]:
    """The pattern of msgspec's message, such as "Expected `int`, got `str` - at `$.instances[1].price`".

    Args:
        member: the member that has the instances; None: they are the whole value.
    """
    path = "" if member is None else rf"\.{re.escape(member)}" if member else "(?!)"
    return re.compile(
        rf"(?P<what>.*?)(?: - at `\$(?:{path}\[(?P<instance>\d+)\])?\.?(?P<field>[^`]*)`)?", re.DOTALL
    )


def _invalid(text: str, member: str | None) -> RequestError:
    """The error for msgspec's message, which ends with the path of the value."""
    match = _pattern(member).fullmatch(text)
    assert match is not None  # the pattern matches any text
    what, field = match["what"], match["field"] or None
    instance = None if match["instance"] is None else int(match["instance"])
    name = _FIELD_NAME.search(what)
    kind = next((kind for start, kind in _KINDS.items() if what.startswith(start)), None)
    if kind is None or name is None:
        return WrongValue(f"{what}.", field=field, instance=instance)
    return kind(f"{what}.", field=f"{field}.{name[1]}" if field else name[1], instance=instance)
