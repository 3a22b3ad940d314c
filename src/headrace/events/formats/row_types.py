"""How Debezium writes the values of a row, and what makes of them what a contract's field is.

The schema of an envelope is often left out, so the field's type decides. A number that stands for an
instant does not say its unit: the schema does, or the contract (`time_unit`). The connector that `headrace
export debezium` writes leaves no such case.
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

__all__ = ["LATEST", "UNAVAILABLE_MARKS", "instant", "is_unavailable", "settled_type", "unit_of"]

# What Debezium writes for a value that PostgreSQL did not send: large (TOASTed) and not changed.
_UNAVAILABLE = "__debezium_unavailable_value"

# As text, as bytea, as a uuid (Java's of these bytes), and as an array of whole numbers.
_CODES = list(_UNAVAILABLE.encode())
_TEXTS = (
    _UNAVAILABLE,
    base64.b64encode(_UNAVAILABLE.encode()).decode(),
    str(uuid.UUID(bytes=hashlib.md5(_UNAVAILABLE.encode(), usedforsecurity=False).digest(), version=3)),
)
UNAVAILABLE_MARKS = (*(one.encode() for one in _TEXTS), str(_CODES).replace(" ", "").encode())
"""What stands in the bytes of an envelope that has such a value, one of them."""
LATEST = 253_402_300_799_999_999
"""The end of the year 9999 in microseconds since 1970: PostgreSQL's `infinity` lies after it."""

_EPOCH = dt.date(1970, 1, 1)
_EARLIEST = -62_135_596_800_000_000  # the year 1
_NUMBER = re.compile(r"-?[\d.]+")
_NANOSECONDS = {"ms": 1_000_000, "us": 1_000, "ns": 1}
# What PostgreSQL's driver gives for `infinity` and what Debezium makes of it lie at the ends of 64 bits.
_INFINITY = 9_223_372_036_825_200_000
_UNITS = {
    "io.debezium.time.Timestamp": "ms",
    "io.debezium.time.MicroTimestamp": "us",
    "io.debezium.time.NanoTimestamp": "ns",
    "org.apache.kafka.connect.data.Timestamp": "ms",
}


class _Described(Struct, gc=False):
    """An envelope beside its schema, which is all that is read of it."""

    schema: Raw = Raw(b"null")


class _Scaled(Struct, gc=False):
    """io.debezium.data.VariableScaleDecimal: the unscaled number, big-endian."""

    scale: int
    value: bytes


def settled_type(kind: Any, core: Any) -> tuple[Any, Callable[..., Any] | None]:
    """What a field's value decodes to, and what settles it: raises ValueError where it is not right.

    It takes the value; `instant` also the unit.

    Args:
        kind: the field's type, as an ordinary event's would be decoded; of a time Any.
        core: the type that is declared, without annotations and None.
    """
    optional = type(None) in get_args(kind)

    def made(one: Any) -> Any:
        return one | None if optional else one

    if core is dt.datetime:
        return kind, instant
    if core is dt.date:
        return made(str | int), _day
    if core is dt.time:
        return made(str), _time
    if core is Decimal:
        return made(Decimal | _Scaled), _number
    if get_origin(core) in (list, dict) or core in (list, dict) or _is_struct(core):
        inner = (
            functools.reduce(operator.or_, [one for one in get_args(kind) if one is not NoneType])
            if optional
            else kind
        )
        decode = decoder(inner)
        # An array is an array; jsonb is its text.
        return made(str | inner), lambda value: decode(value) if isinstance(value, str) else value
    return kind, None


def is_unavailable(value: Any) -> bool:
    """Whether the value stands for one that the database did not send."""
    if isinstance(value, list):
        return value == _CODES or (len(value) == 1 and is_unavailable(value[0]))
    return isinstance(value, str) and value in _TEXTS


def _is_struct(core: Any) -> bool:
    return isinstance(core, type) and issubclass(core, Struct)


def unit_of(raw: bytes, name: str) -> str | None:
    """The unit of a column's instants, by the schema that stands in the envelope; None: it says none."""
    return _units(bytes(_described(raw).schema)).get(name)


_described = msgspec.json.Decoder(_Described).decode


@functools.lru_cache(maxsize=256)
def _units(schema: bytes) -> dict[str, str]:
    """Column → unit, of the row after the change."""

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


def instant(value: Any, unit: str | None = None) -> Any:
    """A number as microseconds since 1970; text, and the field's default, as they are."""
    if isinstance(value, dt.datetime):
        return value
    if isinstance(value, str):
        if _NUMBER.fullmatch(value) is None:
            return value
        raise ValueError(f"{value[:60]!r} is a number as text, and no time of RFC 3339")
    if type(value) is not int:
        raise msgspec.ValidationError(f"a time is text or a whole number, not {type(value).__name__}")
    if unit is None:
        raise ValueError(
            f"{value} does not say its unit: set the connector's time.precision.mode=isostring, or the"
            " converter's schemas.enable=true, or name the unit in @changes(time_unit=...)"
        )
    micros = value * _NANOSECONDS[unit] // 1_000
    if abs(value) >= _INFINITY or not _EARLIEST <= micros <= LATEST:
        raise ValueError(f"{value} ({unit}) is no instant between the years 1 and 9999")
    return micros


def _day(value: str | int | dt.date) -> dt.date:
    if isinstance(value, dt.date):  # the field's default
        return value
    if isinstance(value, int):
        try:
            return _EPOCH + dt.timedelta(days=value)
        except OverflowError as error:
            raise ValueError(f"{value} days since 1970 is no date") from error
    return dt.date.fromisoformat(value.removesuffix("Z"))


def _time(value: str | dt.time) -> dt.time:
    return value if isinstance(value, dt.time) else dt.time.fromisoformat(value.removesuffix("Z"))


def _number(value: Decimal | _Scaled) -> Decimal:
    if isinstance(value, Decimal):
        return value
    return decimal_of(value.value, value.scale)
