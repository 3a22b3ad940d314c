"""Counts the instances of a JSON body before they are decoded.

msgspec checks how long a list is once it has decoded all of it, and an instance can have a hundred times the
memory of its text. Here a body is only parsed, and no longer than the largest number of instances lasts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from headrace.serving.errors import WrongValue

__all__ = [
    "MAX_INSTANCES",
    "CountedList",
    "CountedObject",
    "check_number",
    "has_more",
    "has_more_values",
    "mask_escapes",
]

MAX_INSTANCES = 10_000
"""The largest number of instances in a request."""
_left = threading.local()


def _count_instance() -> None:
    _left.instances -= 1
    if _left.instances < 0:
        raise ValueError("too many")  # msgspec stops decoding


class CountedObject(Struct, gc=False):
    """In a type of msgspec, any object in the place of an instance: it is counted, its fields are skipped."""

    def __post_init__(self) -> None:
        _count_instance()


class CountedList(Struct, array_like=True, gc=False):
    """As CountedObject, for an instance that is a list."""

    def __post_init__(self) -> None:
        _count_instance()


def check_number(body: bytes, outlines: Sequence[Callable[[bytes], Any]], field: str | None) -> None:
    """Refuses a body with more than MAX_INSTANCES instances. What else is wrong with it is not checked.

    Args:
        body: the body.
        outlines: decoders of types that have a CountedObject or a CountedList in the place of an instance.
        field: the field with the instances, for the error.

    Raises:
        WrongValue: there are more.
    """
    if max(body.count(b"{"), body.count(b"[")) <= MAX_INSTANCES:  # an instance has one or the other
        return
    if any(has_more(body, decode, MAX_INSTANCES) for decode in outlines):
        raise WrongValue(f"Expected `array` of length <= {MAX_INSTANCES}.", field=field)


def has_more(body: bytes, outline: Callable[[bytes], Any], limit: int) -> bool:
    """Whether a body has more than `limit` of what the outline counts. It is parsed no further than that."""
    _left.instances = limit
    try:
        outline(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return bool(_left.instances < 0)
    return False


def has_more_values(values: bytes, limit: int) -> bool:
    """Whether a JSON list of numbers, or of texts, has more than `limit` values.

    If it has both, this may be False although there are more.
    """
    if b'"' not in values:
        return values.count(b",") >= limit
    return mask_escapes(values).count(b'"') > 2 * limit


def mask_escapes(body: bytes) -> bytes:
    """The body with dots in place of escaped quotes and backslashes: each quote begins or ends a text."""
    return body.replace(rb"\\", b"..").replace(rb"\"", b"..")
