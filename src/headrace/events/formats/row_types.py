"""Parses the values of a row, as Debezium writes them, to the types of the contract's fields.

The envelope's schema is often left out, so the field's type decides. A time that is written as a number does
not include its unit: the schema has it, or the contract (`time_unit`). The connector that `headrace export
debezium` writes always sends text.
"""

from __future__ import annotations

import base64
import datetime as dt
import functools
import hashlib
import operator
import re
import uuid
from collections.abc import Callable
from decimal import Decimal
from types import NoneType
from typing import Any, get_args, get_origin

import msgspec
from msgspec import Raw, Struct

from headrace.events.formats.numbers import decimal_of, decoder

__all__ = ["LATEST", "UNAVAILABLE_MARKS", "find_unit", "is_unavailable", "parse_instant", "row_type"]

# Debezium writes this for a value that PostgreSQL did not send: large (TOASTed) and unchanged.
_UNAVAILABLE = "__debezium_unavailable_value"

# As text, as bytea, as a uuid (Java's of these bytes), and as an array of whole numbers.
_CODES = list(_UNAVAILABLE.encode())
_TEXTS = (
    _UNAVAILABLE,
    base64.b64encode(_UNAVAILABLE.encode()).decode(),
    str(uuid.UUID(bytes=hashlib.md5(_UNAVAILABLE.encode(), usedforsecurity=False).digest(), version=3)),
)
UNAVAILABLE_MARKS = (*(text.encode() for text in _TEXTS), str(_CODES).replace(" ", "").encode())
"""An envelope with such a value holds at least one of these in its bytes."""
LATEST = 253_402_300_799_999_999
"""The end of the year 9999 in microseconds since 1970: PostgreSQL's `infinity` lies after it."""

_EPOCH = dt.date(1970, 1, 1)
_EARLIEST = -62_135_596_800_000_000  # the year 1
_NUMBER = re.compile(r"-?[\d.]+")
_NANOSECONDS = {"ms": 1_000_000, "us": 1_000, "ns": 1}
# PostgreSQL's driver gives `infinity` as a number at the ends of 64 bits, and so does Debezium.
_INFINITY = 9_223_372_036_825_200_000
_UNITS = {
    "io.debezium.time.Timestamp": "ms",
    "io.debezium.time.MicroTimestamp": "us",
    "io.debezium.time.NanoTimestamp": "ns",
    "org.apache.kafka.connect.data.Timestamp": "ms",
}


class _WithSchema(Struct, gc=False):
    """The schema beside an envelope; the envelope itself is not decoded."""

    schema: Raw = Raw(b"null")


class _Scaled(Struct, gc=False):
    """io.debezium.data.VariableScaleDecimal: the unscaled number, big-endian."""

    scale: int
    value: bytes


def row_type(kind: Any, core: Any) -> tuple[Any, Callable[..., Any] | None]:
    """The type that a column's value decodes to, and the function that parses it to the field's type.

    The function takes the value (`parse_instant` also the unit) and raises ValueError if the value is wrong;
    None: there is nothing to parse.

    Args:
        kind: the field's type, as an ordinary event is decoded; Any for a time.
        core: the declared type, without annotations and None.
    """
    optional = type(None) in get_args(kind)

    def with_none(type_: Any) -> Any:
        return type_ | None if optional else type_

    if core is dt.datetime:
        return kind, parse_instant
    if core is dt.date:
        return with_none(str | int), _parse_day
    if core is dt.time:
        return with_none(str), _parse_time
    if core is Decimal:
        return with_none(Decimal | _Scaled), _parse_decimal
    if get_origin(core) in (list, dict) or core in (list, dict) or _is_struct(core):
        inner = (
            functools.reduce(operator.or_, [part for part in get_args(kind) if part is not NoneType])
            if optional
            else kind
        )
        decode = decoder(inner)
        # Debezium writes an array as an array, and jsonb as its text.
        return with_none(str | inner), lambda value: decode(value) if isinstance(value, str) else value
    return kind, None


def is_unavailable(value: Any) -> bool:
    """Whether the value marks a value that the database did not send."""
    if isinstance(value, list):
        return value == _CODES or (len(value) == 1 and is_unavailable(value[0]))
    return isinstance(value, str) and value in _TEXTS


def _is_struct(core: Any) -> bool:
    return isinstance(core, type) and issubclass(core, Struct)


def find_unit(raw: bytes, name: str) -> str | None:
    """Finds the unit of a column's instants in the schema beside the envelope; None: the schema has none."""
    return _units(bytes(_decode_schema(raw).schema)).get(name)


_decode_schema = msgspec.json.Decoder(_WithSchema).decode


@functools.lru_cache(maxsize=256)
def _units(schema: bytes) -> dict[str, str]:
    """The units of the row after the change: column → unit."""

    def fields(struct: Any) -> list[dict[str, Any]]:
        inner = struct.get("fields") if isinstance(struct, dict) else None
        return [field for field in inner if isinstance(field, dict)] if isinstance(inner, list) else []

    columns = [
        column
        for field in fields(msgspec.json.decode(schema))
        if field.get("field") == "after"
        for column in fields(field)
    ]
    names = [(column.get("field"), column.get("name")) for column in columns]
    return {field: _UNITS[name] for field, name in names if isinstance(field, str) and name in _UNITS}


def parse_instant(value: Any, unit: str | None = None) -> Any:
    """Converts a number to microseconds since 1970; text and datetimes (a default) stay as they are.

    Raises:
        ValueError: the number has no unit or lies outside the years 1 to 9999, or the text is a number.
        msgspec.ValidationError: the value is neither text nor a whole number.
    """
    if isinstance(value, dt.datetime):
        return value
    if isinstance(value, str):
        if _NUMBER.fullmatch(value) is None:
            return value
        raise ValueError(f"{value[:60]!r} is a number as text, not a time as in RFC 3339")
    if type(value) is not int:
        raise msgspec.ValidationError(f"a time is text or a whole number, not {type(value).__name__}")
    if unit is None:
        raise ValueError(
            f"{value} does not say its unit: set the connector's time.precision.mode=isostring, or the"
            " converter's schemas.enable=true, or name the unit in @changes(time_unit=...)"
        )
    micros = value * _NANOSECONDS[unit] // 1_000
    if abs(value) >= _INFINITY or not _EARLIEST <= micros <= LATEST:
        raise ValueError(f"{value} ({unit}) does not lie in the years 1 to 9999")
    return micros


def _parse_day(value: str | int | dt.date) -> dt.date:
    if isinstance(value, dt.date):  # the field's default value
        return value
    if isinstance(value, int):
        try:
            return _EPOCH + dt.timedelta(days=value)
        except OverflowError as error:
            raise ValueError(f"{value} days since 1970 is not a valid date") from error
    return dt.date.fromisoformat(value.removesuffix("Z"))


def _parse_time(value: str | dt.time) -> dt.time:
    return value if isinstance(value, dt.time) else dt.time.fromisoformat(value.removesuffix("Z"))


def _parse_decimal(value: Decimal | _Scaled) -> Decimal:
    if isinstance(value, Decimal):
        return value
    return decimal_of(value.value, value.scale)
