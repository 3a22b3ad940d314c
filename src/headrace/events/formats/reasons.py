"""Why an event is refused: the decoder's errors as code, field and reason."""

from __future__ import annotations

import re
from decimal import InvalidOperation
from functools import lru_cache
from typing import NamedTuple

import msgspec

__all__ = ["LONGEST", "Broken", "Reason", "reason_of"]

LONGEST = 300  # an error may quote the event, and an event may be megabytes long

_PLACE = re.compile(r" - at `(?:key in )?\$(.*)`$", re.DOTALL)
_FIELD = re.compile(r"\.([^.\[]+)")
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\(u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.",
    re.DOTALL,
)
"""An escape in JSON: a whole surrogate pair, one half alone (the group), any other."""
_NAMED = re.compile(r"(?:required|unknown) field `(.*)`", re.DOTALL)


class Reason(NamedTuple):
    """One refusal: its code, the first field that is broken (None: the whole event), and why."""

    code: str
    field: str | None
    reason: str


class Broken(Exception):
    """An event is not right, for a reason that the format itself gives."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.reason)
        self.reason = reason


def reason_of(error: Exception, raw: bytes = b"") -> Reason:
    """The reason that an error of a decoder stands for: msgspec's, or the format's own (Broken).

    Args:
        error: one of formats.REFUSES.
        raw: the event; of some errors msgspec does not say what is wrong with it.
    """
    if isinstance(error, Broken):
        return error.reason
    if isinstance(error, UnicodeDecodeError):
        return Reason("bad_utf8", None, str(error)[:LONGEST])
    if isinstance(error, RecursionError):
        return Reason("too_deep", None, "it is nested too deeply")
    if isinstance(error, InvalidOperation):
        return Reason("out_of_range", None, "the exponent of a number in it is out of range")
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return Reason("not_json", None, _find_lone_surrogate(raw) or text[:LONGEST])
    return _by_text(text) if len(text) <= LONGEST else _by_text.__wrapped__(text)


def _find_lone_surrogate(raw: bytes) -> str | None:
    """What is wrong where one of two escapes that make a character stands alone; None where none does."""
    alone = next((escape[1] for escape in _ESCAPE.finditer(raw) if escape[1]), None)
    if alone is None:
        return None
    return f"\\{alone.decode()} is half of a character: of a surrogate pair the other half is missing"


@lru_cache(maxsize=4096)  # what breaks events breaks many of them alike
def _by_text(text: str) -> Reason:
    place = _PLACE.search(text)
    named = _NAMED.search(text)
    path = place.group(1) if place else ""
    top = _FIELD.match(path)
    field = top.group(1) if top else named.group(1) if named else None
    what = text[: place.start()] if place else text
    inside = f" (at {path[:80]})" if top and path != top.group() else ""
    return Reason(_code(what), None if field is None else field[:LONGEST], what[:LONGEST] + inside)


def _code(what: str) -> str:
    if what.startswith("Object missing required field"):
        return "missing"
    if what.startswith("Object contains unknown field"):
        return "extra"
    if what.startswith(("Invalid enum value", "Invalid value")):
        return "unknown_value"
    if "no timezone" in what:
        return "bad_time"
    if "timezone" in what:
        return "naive_time"
    if what.startswith(("Invalid RFC3339", "Invalid ISO8601")):
        return "bad_time"
    if "out of range" in what or " of length " in what or "matching regex" in what or "multiple of" in what:
        return "out_of_range"
    # "Expected `float` > 0.0" speaks of the value, "Expected `float`, got `str`" of its type.
    return "out_of_range" if re.match(r"Expected `[^`]+` [<>]", what) else "wrong_type"
