"""Refusals: the errors of decoders as code, field and reason."""

from __future__ import annotations

import re
from decimal import InvalidOperation
from functools import lru_cache
from typing import NamedTuple

import msgspec

__all__ = ["MAX_REASON_LENGTH", "InvalidEvent", "Refusal", "UnknownSchema", "refusal_of"]

MAX_REASON_LENGTH = 300  # characters: an error may quote the event, and an event may be megabytes long

_PLACE = re.compile(r" - at `(?:key in )?\$(.*)`$", re.DOTALL)
_FIELD = re.compile(r"\.([^.\[]+)")
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\(u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.",
    re.DOTALL,
)
"""An escape in JSON: a whole surrogate pair, half of one (the group), or any other."""
_OUT_OF_RANGE = ("out of range", " of length ", "matching regex", "multiple of")
_NAMED = re.compile(r"(?:required|unknown) field `(.*)`", re.DOTALL)


class Refusal(NamedTuple):
    """Why an event is refused.

    Attributes:
        code: the kind of error, as `_code` of the table has it (`wrong_type`, `missing`, ...).
        field: the first field that is wrong; None: the whole event.
        reason: the error in words.
    """

    code: str
    field: str | None
    reason: str


class InvalidEvent(Exception):
    """An event is refused by its format or by the contract's code.

    Args:
        code, field, reason: see Refusal; the reason is cut to MAX_REASON_LENGTH characters.
    """

    def __init__(self, code: str, field: str | None, reason: str) -> None:
        super().__init__(reason)
        self.refusal = Refusal(code, field, reason[:MAX_REASON_LENGTH])


class UnknownSchema(Exception):
    """The schema registry has no Avro schema of this id."""


def refusal_of(error: Exception, raw: bytes = b"") -> Refusal:
    """The refusal that describes a decoder's error.

    Args:
        error: one of formats.DECODE_ERRORS.
        raw: the event, for errors in which msgspec does not say what is wrong.
    """
    if isinstance(error, InvalidEvent):
        return error.refusal
    if isinstance(error, UnicodeDecodeError):
        return Refusal("bad_utf8", None, str(error)[:MAX_REASON_LENGTH])
    if isinstance(error, RecursionError):
        return Refusal("too_deep", None, "it is nested too deeply")
    if isinstance(error, InvalidOperation):
        return Refusal("out_of_range", None, "the exponent of a number in it is out of range")
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return Refusal("not_json", None, _find_lone_surrogate(raw) or text[:MAX_REASON_LENGTH])
    return _from_text(text) if len(text) <= MAX_REASON_LENGTH else _from_text.__wrapped__(text)


def _find_lone_surrogate(raw: bytes) -> str | None:
    """Describe the first escape that is half of a surrogate pair; None if there is none."""
    half = next((escape[1] for escape in _ESCAPE.finditer(raw) if escape[1]), None)
    if half is None:
        return None
    return f"\\{half.decode()} is half of a character: of a surrogate pair the other half is missing"


@lru_cache(maxsize=4096)  # many events have the same error
def _from_text(text: str) -> Refusal:
    place = _PLACE.search(text)
    named = _NAMED.search(text)
    path = place.group(1) if place else ""
    top = _FIELD.match(path)
    field = top.group(1) if top else named.group(1) if named else None
    problem = text[: place.start()] if place else text
    inner_path = f" (at {path[:80]})" if top and path != top.group() else ""
    return Refusal(
        _code(problem),
        None if field is None else field[:MAX_REASON_LENGTH],
        problem[:MAX_REASON_LENGTH] + inner_path,
    )


def _code(problem: str) -> str:
    if problem.startswith("Object missing required field"):
        return "missing"
    if problem.startswith("Object contains unknown field"):
        return "extra"
    if problem.startswith(("Invalid enum value", "Invalid value")):
        return "unknown_value"
    if "no timezone" in problem:
        return "bad_time"
    if "timezone" in problem:
        return "naive_time"
    if problem.startswith(("Invalid RFC3339", "Invalid ISO8601")):
        return "bad_time"
    if any(words in problem for words in _OUT_OF_RANGE):
        return "out_of_range"
    # "Expected `float` > 0.0" is about the value, "Expected `float`, got `str`" about its type.
    return "out_of_range" if re.match(r"Expected `[^`]+` [<>]", problem) else "wrong_type"
