"""Kafka Connect's envelope: `{"schema": ..., "payload": {...}}`, as its JsonConverter writes it.

The schema beside the payload says which numbers and texts are instants, days and decimals. It is parsed once
for all events with the same schema. If it is null, the payload is decoded as plain JSON.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw, Struct

from headrace.events.formats import numbers
from headrace.events.formats.port import Format
from headrace.events.formats.refusals import InvalidEvent

__all__ = ["Connect"]

Converter = Callable[[Any], Any]

_LOGICAL = "org.apache.kafka.connect.data."
_SCALE = re.compile(r"-?[0-9]{1,40}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Envelope(Struct):
    payload: Raw
    schema: Raw = Raw(b"null")


class Connect(Format):
    """The event is the envelope's payload."""

    def decoder(
        self, kind: Any, *, strict: bool, empty_is_null: Collection[str] = ()
    ) -> Callable[[bytes], Any]:
        """See Format."""
        decode_envelope = msgspec.json.Decoder(_Envelope).decode
        decode_event = numbers.decoder(kind, strict=strict)
        decode_plain = numbers.decoder(Any)

        def decode(raw: bytes) -> Any:
            try:
                envelope = decode_envelope(raw)
            except msgspec.ValidationError as error:
                reason = f"it is not an envelope of schema and payload: {error}"
                raise InvalidEvent("wrong_type", None, reason) from None
            payload = bytes(envelope.payload)
            if empty_is_null:
                payload = numbers.replace_empty_by_null(payload, empty_is_null)
            convert = _parse_schema(bytes(envelope.schema))
            if convert is None:
                return decode_event(payload)
            return numbers.convert(convert(decode_plain(payload)), kind, strict=strict)

        return decode


@lru_cache(maxsize=256)
def _parse_schema(text: bytes) -> Converter | None:
    """Builds the converter of a schema (its JSON) from the payload's values to their meaning.

    None if they are the same.
    """
    try:
        schema = msgspec.json.decode(text)
    except RecursionError:
        return None
    return _converter(schema)


def _converter(schema: Any) -> Converter | None:
    if not isinstance(schema, dict):
        return None
    name = schema.get("name")
    if isinstance(name, str) and name.startswith(_LOGICAL):
        return _logical_converter(name.removeprefix(_LOGICAL), schema.get("parameters"))
    if schema.get("type") == "array":
        return _list_converter(_converter(schema.get("items")))
    fields = schema.get("fields")
    if schema.get("type") != "struct" or not isinstance(fields, list):
        return None
    converters = {
        field["field"]: convert
        for field in fields
        if isinstance(field, dict) and isinstance(field.get("field"), str) and (convert := _converter(field))
    }
    return _struct_converter(converters) if converters else None


def _list_converter(convert: Converter | None) -> Converter | None:
    if convert is None:
        return None
    return lambda values: [convert(value) for value in values] if isinstance(values, list) else values


def _struct_converter(converters: Mapping[str, Converter]) -> Converter:
    def convert_fields(struct: Any) -> Any:
        if isinstance(struct, dict):
            for name, convert in converters.items():
                if struct.get(name) is not None:
                    struct[name] = convert(struct[name])
        return struct

    return convert_fields


def _logical_converter(name: str, parameters: Any) -> Converter | None:
    """The converter of a logical type. It leaves a value that is not of its type for the contract to refuse."""
    if name == "Decimal":
        scale = parameters.get("scale") if isinstance(parameters, dict) else None
        return _decimal_converter(int(scale)) if isinstance(scale, str) and _SCALE.fullmatch(scale) else None
    converters: dict[str, Callable[[int], date | time]] = {
        "Timestamp": lambda count: _EPOCH + timedelta(milliseconds=count),
        "Date": lambda count: (_EPOCH + timedelta(days=count)).date(),
        "Time": lambda count: (_EPOCH + timedelta(milliseconds=count)).time(),
    }
    return _number_converter(converters[name]) if name in converters else None


def _number_converter(convert: Callable[[int], date | time]) -> Converter:
    def convert_number(value: Any) -> Any:
        try:
            return convert(value) if type(value) is int else value
        except OverflowError:
            return value

    return convert_number


def _decimal_converter(scale: int) -> Converter:
    def convert(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            unscaled = base64.b64decode(value, validate=True)
        except ValueError:  # it is not base64
            return value
        return numbers.decimal_of(unscaled, scale)

    return convert
