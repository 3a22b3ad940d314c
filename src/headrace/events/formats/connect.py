"""Kafka Connect's envelope: `{"schema": ..., "payload": {...}}`, as its JsonConverter writes it.

The schema beside the payload says which numbers and texts stand for instants, days and decimals; it is
read once for all events that carry the same. Where it is null the payload is taken as plain JSON.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw, Struct

from headrace.events.formats import numbers
from headrace.events.formats.reasons import Broken, Reason

__all__ = ["Connect"]

Converter = Callable[[Any], Any]

_LOGICAL = "org.apache.kafka.connect.data."
_BEGIN = datetime(1970, 1, 1, tzinfo=UTC)


class _Envelope(Struct):
    payload: Raw
    schema: Raw = Raw(b"null")


class Connect:
    """The event is the envelope's payload."""

    instants = True

    def decoder(
        self, kind: Any, *, strict: bool, empty_is_null: Collection[str] = ()
    ) -> Callable[[bytes], Any]:
        """See Format."""
        envelope = msgspec.json.Decoder(_Envelope).decode
        event = numbers.decoder(kind, strict=strict)
        plain = numbers.decoder(Any)

        def decode(raw: bytes) -> Any:
            try:
                whole = envelope(raw)
            except msgspec.ValidationError as error:
                why = f"it is no envelope of schema and payload: {error}"
                raise Broken(Reason("wrong_type", None, why)) from None
            payload = bytes(whole.payload)
            if empty_is_null:
                payload = numbers.replace_empty_by_null(payload, empty_is_null)
            convert = _of_text(bytes(whole.schema))
            if convert is None:
                return event(payload)
            return numbers.convert(convert(plain(payload)), kind, strict=strict)

        return decode


@lru_cache(maxsize=256)
def _of_text(schema: bytes) -> Converter | None:
    """What makes the values that a schema (its JSON text) means of those that stand in the payload;
    None where they are the same."""
    try:
        found = msgspec.json.decode(schema)
    except RecursionError:
        found = None
    return _converter(found)


def _converter(schema: Any) -> Converter | None:
    if not isinstance(schema, dict):
        return None
    name = schema.get("name")
    if isinstance(name, str) and name.startswith(_LOGICAL):
        return _logical(name.removeprefix(_LOGICAL), schema.get("parameters"))
    if schema.get("type") == "array":
        return _each(_converter(schema.get("items")))
    fields = schema.get("fields")
    if schema.get("type") != "struct" or not isinstance(fields, list):
        return None
    inner = {
        one["field"]: convert
        for one in fields
        if isinstance(one, dict) and isinstance(one.get("field"), str) and (convert := _converter(one))
    }
    return _inside(inner) if inner else None


def _each(convert: Converter | None) -> Converter | None:
    if convert is None:
        return None
    return lambda values: [convert(one) for one in values] if isinstance(values, list) else values


def _inside(fields: Mapping[str, Converter]) -> Converter:
    def made(value: Any) -> Any:
        if isinstance(value, dict):
            for name, convert in fields.items():
                if value.get(name) is not None:
                    value[name] = convert(value[name])
        return value

    return made


def _logical(name: str, parameters: Any) -> Converter | None:
    """A value that is not what its schema says stays as it is, for the contract to refuse."""
    if name == "Decimal":
        scale = parameters.get("scale") if isinstance(parameters, dict) else None
        return _decimal(int(scale)) if isinstance(scale, str) and scale.lstrip("-").isdigit() else None
    made: dict[str, Converter] = {
        "Timestamp": lambda n: _BEGIN + timedelta(milliseconds=n),
        "Date": lambda n: (_BEGIN + timedelta(days=n)).date(),
        "Time": lambda n: (_BEGIN + timedelta(milliseconds=n)).time(),
    }
    return _of_number(made[name]) if name in made else None


def _of_number(make: Callable[[int], date | time]) -> Converter:
    def convert(value: Any) -> Any:
        try:
            return make(value) if type(value) is int else value
        except OverflowError:
            return value

    return convert


def _decimal(scale: int) -> Converter:
    def convert(value: Any) -> Any:
        try:
            digits = base64.b64decode(value, validate=True) if isinstance(value, str) else None
        except binascii.Error:
            return value
        return value if digits is None else numbers.decimal_of(digits, scale)

    return convert
