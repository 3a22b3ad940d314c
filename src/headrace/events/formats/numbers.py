"""JSON whose numbers keep every digit they were written with.

If a field's type is a number (float, int, Decimal), its value is decoded to that type. Elsewhere (Any, dicts,
lists, a field that no contract names), a number with a point or an exponent is decoded as a Decimal, since a
64-bit float would drop digits; `encode` writes it as a number again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec
from msgspec import Raw

__all__ = ["convert", "decimal_of", "decoder", "encode", "replace_empty_by_null"]

encode = msgspec.json.Encoder(decimal_format="number").encode
"""Encode a value as JSON; a Decimal becomes a number with all its digits."""

_raw_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_INT64 = 2**63
_EMPTY, _NULL = b'""', Raw(b"null")


def decoder(kind: Any, *, strict: bool = True) -> Callable[[bytes | str], Any]:
    """Build a decoder from JSON to a type. It raises one of formats.DECODE_ERRORS."""
    decode: Callable[[bytes | str], Any] = msgspec.json.Decoder(kind, strict=strict, float_hook=Decimal).decode
    return decode


def convert(value: Any, kind: Any, *, strict: bool) -> Any:
    """Convert plain values, as a decoder of this type would have decoded their JSON.

    Raises:
        msgspec.ValidationError: the value is not of the type.
    """
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError:
        if strict:
            raise
        return msgspec.convert(_with_integers(value), kind, strict=False)


def decimal_of(unscaled: bytes, scale: int) -> Decimal:
    """The decimal `unscaled / 10**scale`, with all its digits.

    Args:
        unscaled: a signed whole number, big-endian.
        scale: the number of digits after the point.

    Raises:
        msgspec.ValidationError: a decimal cannot have such a scale.
    """
    number = Decimal(int.from_bytes(unscaled, "big", signed=True))
    try:
        return Decimal((*number.as_tuple()[:2], -scale))
    except (InvalidOperation, OverflowError):
        raise msgspec.ValidationError(f"Decimal scale {str(scale)[:30]} is out of range") from None


def _with_integers(value: Any) -> Any:
    """Replace 35.0 by 35: msgspec takes 35.0 for an integer in JSON, but not as a Decimal."""
    if isinstance(value, Decimal):
        return int(value) if -_INT64 <= value < _INT64 and value == value.to_integral_value() else value
    if isinstance(value, dict):
        return {key: _with_integers(inner) for key, inner in value.items()}
    return [_with_integers(inner) for inner in value] if isinstance(value, list) else value


def replace_empty_by_null(raw: bytes, names: Collection[str]) -> bytes:
    """Replace "" by null in the named fields of a JSON object.

    The text is returned unchanged if it is not an object, or holds a key twice: the decoder judges those.

    Raises:
        msgspec.DecodeError: it is not valid JSON.
    """
    try:
        fields = _raw_fields(raw)
    except msgspec.ValidationError:
        return raw
    if json.loads(raw, object_pairs_hook=len, parse_int=str, parse_float=str) != len(fields):
        return raw
    return encode(
        {name: _NULL if name in names and bytes(value) == _EMPTY else value for name, value in fields.items()}
    )
