"""How Debezium writes the values of a row, and what makes of them what a contract's field is.

The schema of an envelope is often left out, so the field's type decides. Where one text could mean two
things, docs/guide/changes.md says which; the connector that `headrace export debezium` writes leaves no
such case.
"""

from __future__ import annotations

import base64
import datetime as dt
import functools
import hashlib
import operator
import uuid
from collections.abc import Callable
from decimal import Decimal
from types import NoneType
from typing import Any, get_args, get_origin

from msgspec import Struct

from headrace.events.wires.numbers import decimal_of, decoder

__all__ = ["LATEST", "UNAVAILABLE_MARKS", "is_unavailable", "settled_type"]

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
# Whole numbers for instants: by their size, which tells milli-, micro- and nanoseconds apart for times
# more than 3.2 years from 1970.
_MILLIS_BELOW, _MICROS_BELOW = 10**14, 10**17


class _Scaled(Struct, gc=False):
    """io.debezium.data.VariableScaleDecimal: the unscaled number, big-endian."""

    scale: int
    value: bytes


def settled_type(kind: Any, core: Any) -> tuple[Any, Callable[[Any], Any] | None]:
    """What a field's value decodes to, and what settles it: raises ValueError where it is not right.

    Args:
        kind: the field's type, as an ordinary event's would be decoded; of a time Any.
        core: the type that is declared, without annotations and None.
    """
    optional = type(None) in get_args(kind)

    def made(one: Any) -> Any:
        return one | None if optional else one

    if core is dt.datetime:
        return kind, _instant
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


def _instant(value: Any) -> Any:
    """A number as microseconds since 1970."""
    if not isinstance(value, int):
        return value
    size = abs(value)
    micros = value * 1_000 if size < _MILLIS_BELOW else value if size < _MICROS_BELOW else value // 1_000
    if not _EARLIEST <= micros <= LATEST:
        raise ValueError(f"{value} is no instant between the years 1 and 9999")
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
