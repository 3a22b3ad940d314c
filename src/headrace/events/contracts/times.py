"""Times as events give them: text, numbers or instants, to microseconds since 1970, a column at a time.

The common spellings are parsed by polars, 40 ns each. What that leaves is parsed one by one, by the
definition: RFC 3339 by msgspec, any other spelling by `datetime.strptime`.

A text without a zone is a time in the contract's `timezone`, if it has one. An hour that the clocks of that
zone show twice is taken as the first of the two; one that they leave out is no time.

An instant must lie in the years 1 to 9999 of UTC, whatever its own zone: no other can be stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from types import NoneType
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.kernel.time import micros

__all__ = ["EARLIEST", "EPOCH_FORMATS", "LATEST", "ParsedTimes", "has_zone", "parse_time", "parse_times"]

EPOCH_FORMATS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
"""Spellings of a time as a number since 1970 → microseconds in one of it."""

_DIRECTIVE = re.compile(r"%(.)")
_WIDTHS = {"Y": 4, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2}
_ZONES = re.compile(r"(?<![A-Za-z])(UTC|GMT|Z)(?![A-Za-z])")
_LONGEST = 20  # digits of a number that may be a time
_NUMBER = re.compile(r"-?\d{1,20}(\.\d{1,9})?")
EARLIEST, LATEST = (micros(instant.replace(tzinfo=UTC)) for instant in (datetime.min, datetime.max))
"""The first and the last instant that can be stored, microseconds since 1970: years 1 to 9999."""

Wrong = tuple[str, str]


class ParsedTimes(NamedTuple):
    """Times parsed.

    Attributes:
        micros: int64[n], microseconds since 1970, 0 where there is none.
        null: bool[n], where no time was given.
        broken: place → (code, reason), where it is no time or has no zone.
    """

    micros: NDArray[np.int64]
    null: NDArray[np.bool_]
    broken: dict[int, Wrong]


def parse_times(values: Sequence[Any], spellings: Sequence[str], zone: str | None = None) -> ParsedTimes:
    """Parses a column by the spellings that a contract allows (declare.event.Contract.times).

    Args:
        values: text, numbers, datetimes or None; anything else is refused as of the wrong type.
        spellings: `rfc3339`, strptime formats, or one of EPOCH_FORMATS for numbers.
        zone: of a text without one.
    """
    texts = [one for one in spellings if one not in EPOCH_FORMATS]
    if not set(map(type, values)) <= {str, NoneType}:  # polars panics over some other values
        return _mixed(values, spellings, zone)
    column = pl.Series(values, dtype=pl.String)
    null = column.is_null().to_numpy()
    found = pl.Series([None], dtype=pl.Datetime("us")).new_from_index(0, len(column))
    for pattern, width, read in _fast(texts, zone):
        if found.null_count() == len(column):
            rest = column
        else:
            rest = pl.select(pl.when(found.is_null()).then(column)).to_series()
        if rest.null_count() == len(column):
            break
        # Only the one fixed width: unpadded numbers, which polars would take, are for the slow way.
        rest = pl.select(pl.when(rest.str.len_bytes() == width).then(rest)).to_series()
        parsed = read(rest.str.to_datetime(pattern, time_unit="us", strict=False, cache=False))
        found = (
            parsed if found.null_count() == len(column) else pl.select(pl.coalesce(found, parsed)).to_series()
        )
    result = found.to_physical().fill_null(0).to_numpy(writable=True)
    outside = (result < EARLIEST) | (result > LATEST)  # polars takes the year 0
    result[outside] = 0
    left = np.flatnonzero((found.is_null().to_numpy() | outside) & ~null)
    return ParsedTimes(result, null, _one_by_one(column, left.tolist(), result, spellings, zone))


def _mixed(values: Sequence[Any], spellings: Sequence[str], zone: str | None) -> ParsedTimes:
    """A column that is not all text."""
    null = np.array([one is None for one in values], bool)
    result = np.zeros(len(values), np.int64)
    left: Sequence[int] = np.flatnonzero(~null).tolist()
    factor = next((EPOCH_FORMATS[one] for one in spellings if one in EPOCH_FORMATS), None)
    if factor is not None and all(type(values[at]) is int for at in left):
        try:
            whole = np.array([0 if one is None else one for one in values], np.int64)
        except OverflowError:
            whole = None
        if whole is not None:
            inside = (whole >= EARLIEST // factor) & (whole <= LATEST // factor)
            result[inside] = whole[inside] * factor
            left = np.flatnonzero(~inside).tolist()
    return ParsedTimes(result, null, _one_by_one(values, left, result, spellings, zone))


def _one_by_one(
    values: Any, places: Sequence[int], result: NDArray[np.int64], spellings: Sequence[str], zone: str | None
) -> dict[int, Wrong]:
    broken: dict[int, Wrong] = {}
    for place in places:
        one = parse_time(values[place], spellings, zone)
        if isinstance(one, int):
            result[place] = one
        else:
            broken[place] = one
    return broken


def parse_time(value: Any, spellings: Sequence[str], zone: str | None = None) -> int | Wrong:
    """One time in microseconds since 1970, or the code and reason it is refused for."""
    if isinstance(value, str):
        return _text(value, spellings, zone)
    if isinstance(value, Decimal):
        return _number(value, spellings)
    if isinstance(value, datetime):
        return _instant(value, zone)
    factor = next((EPOCH_FORMATS[one] for one in spellings if one in EPOCH_FORMATS), None)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or factor is None:
        wanted = "a number or text" if factor is not None else "text (for a number see time_formats=)"
        return "wrong_type", f"a time is given as {wanted}, not as {type(value).__name__}"
    if not EARLIEST <= value * factor <= LATEST:  # also of what is no number or infinite
        return _outside(str(value))
    return round(value * factor)


def _number(value: Decimal, spellings: Sequence[str]) -> int | Wrong:
    factor = next((EPOCH_FORMATS[spelling] for spelling in spellings if spelling in EPOCH_FORMATS), None)
    if factor is None or not value.is_finite() or value.adjusted() > _LONGEST:
        return parse_time(float(value), spellings)
    return parse_time(round(value * factor), ["epoch_us"])


def _text(text: str, spellings: Sequence[str], zone: str | None) -> int | Wrong:
    wrong: Wrong | None = None
    for spelling in spellings:
        if spelling in EPOCH_FORMATS:
            if _NUMBER.fullmatch(text):
                return parse_time(int(text) if "." not in text else Decimal(text), spellings)
            continue
        try:
            if spelling == "rfc3339":
                instant = msgspec.convert(text, datetime)
            else:
                instant = datetime.strptime(text, spelling)
                if instant.tzinfo is None and has_zone(spelling):
                    instant = instant.replace(tzinfo=UTC)
            found = _instant(instant, zone)
        except (ValueError, OverflowError):
            continue  # not this spelling; msgspec.ValidationError is a ValueError
        if isinstance(found, int):
            return found
        wrong = wrong or found
    return wrong or ("bad_time", f"{text[:60]!r} is not spelled as {' or '.join(spellings)}")


def has_zone(spelling: str) -> bool:
    """Whether a strptime format says which zone its texts are in, as literal text."""
    return _ZONES.search(_DIRECTIVE.sub(" ", spelling)) is not None


def _instant(instant: datetime, zone: str | None) -> int | Wrong:
    if instant.tzinfo is not None:
        since = micros(instant)
        return since if EARLIEST <= since <= LATEST else _outside(str(instant))
    if zone is None:
        return "naive_time", f"{str(instant)!r} has no time zone"
    there = instant.replace(tzinfo=ZoneInfo(zone), fold=0)
    try:
        if there.astimezone(UTC).astimezone(there.tzinfo).replace(tzinfo=None) != instant:
            return "bad_time", f"{str(instant)!r} does not exist in {zone}: the clocks pass over it"
        return micros(there.astimezone(UTC))
    except OverflowError:
        return _outside(str(instant))


def _outside(instant: str) -> Wrong:
    return "out_of_range", f"{instant[:60]!r} lies outside the years 1 to 9999 in UTC"


def _fast(
    spellings: Sequence[str], zone: str | None
) -> list[tuple[str, int, Callable[[pl.Series], pl.Series]]]:
    """The spellings that polars parses as strptime would, each with the width of a padded text and what
    makes naive UTC of what it parses."""

    def is_utc(naive: pl.Series) -> pl.Series:
        return naive

    def is_local(naive: pl.Series) -> pl.Series:
        # Beyond these years the two libraries do not have the same clocks.
        sure = pl.select(pl.when(naive.dt.year().is_between(1970, 2099)).then(naive)).to_series()
        local = sure.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        return local.dt.convert_time_zone("UTC").dt.replace_time_zone(None)

    fast: list[tuple[str, int, Callable[[pl.Series], pl.Series]]] = []
    for spelling in spellings:
        if spelling == "rfc3339":
            fast.append(("%Y-%m-%dT%H:%M:%SZ", 20, is_utc))
            if zone is not None:
                fast.append(("%Y-%m-%dT%H:%M:%S", 19, is_local))
            continue
        directives = _DIRECTIVE.findall(spelling)
        literal = _DIRECTIVE.sub(" ", spelling)
        # Each of the six exactly once, and nothing that polars reads otherwise.
        if sorted(directives) == sorted(_WIDTHS) and literal.isascii():
            width = len(_DIRECTIVE.sub("", spelling)) + sum(_WIDTHS[d] for d in directives)
            if has_zone(spelling):
                fast.append((spelling, width, is_utc))
            elif zone is not None:
                fast.append((spelling, width, is_local))
    return fast
