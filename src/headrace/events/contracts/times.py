"""Times of events (text, numbers or datetimes) to microseconds since 1970, a column at a time.

Polars parses the common formats, at 40 ns per value. The remaining values are parsed one by one, and that
parsing defines the result: msgspec for RFC 3339, `datetime.strptime` for every other format.

A text without a zone is a time in the contract's `timezone`, if it has one. If the clocks of that zone show an
hour twice, the first occurrence counts; a time in an hour that they skip is refused.

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
"""Formats of a time as a number since 1970 → microseconds in one unit of it."""

EARLIEST, LATEST = (micros(instant.replace(tzinfo=UTC)) for instant in (datetime.min, datetime.max))
"""The first and the last instant that can be stored, in microseconds since 1970: the years 1 to 9999."""

TimeError = tuple[str, str]
"""A code and a reason, as in a Refusal."""

_DIRECTIVE = re.compile(r"%(.)")
_WIDTHS = {"Y": 4, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2}
_ZONES = re.compile(r"(?<![A-Za-z])(UTC|GMT|Z)(?![A-Za-z])")
_MAX_DIGITS = 20  # of a number that may be a time
_NUMBER = re.compile(r"-?\d{1,20}(\.\d{1,9})?")


class ParsedTimes(NamedTuple):
    """A parsed column of times.

    Attributes:
        micros: int64[n], microseconds since 1970; 0 for a value that is None or wrong.
        null: bool[n], whether the value is None.
        errors: row → (code, reason), for a value that is not a time or has no zone.
    """

    micros: NDArray[np.int64]
    null: NDArray[np.bool_]
    errors: dict[int, TimeError]


def parse_times(values: Sequence[Any], formats: Sequence[str], zone: str | None = None) -> ParsedTimes:
    """Parse a column of times by the formats that a contract allows (`time_formats`).

    Args:
        values: text, numbers, datetimes or None; anything else is an error of code `wrong_type`.
        formats: `rfc3339`, strptime formats, or one of EPOCH_FORMATS for numbers.
        zone: the time zone of a text without one; None: such a text is an error of code `naive_time`.
    """
    text_formats = [name for name in formats if name not in EPOCH_FORMATS]
    if not set(map(type, values)) <= {str, NoneType}:  # polars panics over some other values
        return _parse_mixed(values, formats, zone)
    column = pl.Series(values, dtype=pl.String)
    null = column.is_null().to_numpy()
    times = pl.Series([None], dtype=pl.Datetime("us")).new_from_index(0, len(column))
    for pattern, width, to_utc in _polars_parsers(text_formats, zone):
        if times.null_count() == len(column):
            rest = column
        else:
            rest = pl.select(pl.when(times.is_null()).then(column)).to_series()
        if rest.null_count() == len(column):
            break
        # Polars also accepts unpadded numbers, so texts of another length are left for strptime.
        rest = pl.select(pl.when(rest.str.len_bytes() == width).then(rest)).to_series()
        parsed = to_utc(rest.str.to_datetime(pattern, time_unit="us", strict=False, cache=False))
        if times.null_count() == len(column):
            times = parsed
        else:
            times = pl.select(pl.coalesce(times, parsed)).to_series()
    result = times.to_physical().fill_null(0).to_numpy(writable=True)
    outside = (result < EARLIEST) | (result > LATEST)  # polars accepts the year 0
    result[outside] = 0
    left = np.flatnonzero((times.is_null().to_numpy() | outside) & ~null)
    return ParsedTimes(result, null, _parse_each(column, left.tolist(), result, formats, zone))


def _parse_mixed(values: Sequence[Any], formats: Sequence[str], zone: str | None) -> ParsedTimes:
    """Parse a column that is not all text."""
    null = np.array([value is None for value in values], bool)
    result = np.zeros(len(values), np.int64)
    left: Sequence[int] = np.flatnonzero(~null).tolist()
    factor = _find_factor(formats)
    if factor is not None and all(type(values[row]) is int for row in left):
        try:
            numbers = np.array([0 if value is None else value for value in values], np.int64)
        except OverflowError:
            numbers = None
        if numbers is not None:
            inside = (numbers >= EARLIEST // factor) & (numbers <= LATEST // factor)
            result[inside] = numbers[inside] * factor
            left = np.flatnonzero(~inside).tolist()
    return ParsedTimes(result, null, _parse_each(values, left, result, formats, zone))


def _parse_each(
    values: Any, rows: Sequence[int], result: NDArray[np.int64], formats: Sequence[str], zone: str | None
) -> dict[int, TimeError]:
    errors: dict[int, TimeError] = {}
    for row in rows:
        parsed = parse_time(values[row], formats, zone)
        if isinstance(parsed, int):
            result[row] = parsed
        else:
            errors[row] = parsed
    return errors


def parse_time(value: Any, formats: Sequence[str], zone: str | None = None) -> int | TimeError:
    """Parse one time to microseconds since 1970, or explain why it is refused.

    Args:
        value, formats, zone: see parse_times.
    """
    if isinstance(value, str):
        return _parse_text(value, formats, zone)
    if isinstance(value, Decimal):
        return _parse_decimal(value, formats)
    if isinstance(value, datetime):
        return _parse_datetime(value, zone)
    factor = _find_factor(formats)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or factor is None:
        expected = "a number or text" if factor is not None else "text (for a number see time_formats=)"
        return "wrong_type", f"a time is given as {expected}, not as {type(value).__name__}"
    if not EARLIEST <= value * factor <= LATEST:  # false for NaN and infinity too
        return _outside(str(value))
    return round(value * factor)


def _parse_decimal(value: Decimal, formats: Sequence[str]) -> int | TimeError:
    factor = _find_factor(formats)
    if factor is None or not value.is_finite() or value.adjusted() > _MAX_DIGITS:
        return parse_time(float(value), formats)
    return parse_time(round(value * factor), ["epoch_us"])


def _parse_text(text: str, formats: Sequence[str], zone: str | None) -> int | TimeError:
    error: TimeError | None = None
    for name in formats:
        if name in EPOCH_FORMATS:
            if _NUMBER.fullmatch(text):
                return parse_time(int(text) if "." not in text else Decimal(text), formats)
            continue
        try:
            if name == "rfc3339":
                instant = msgspec.convert(text, datetime)
            else:
                instant = datetime.strptime(text, name)
                if instant.tzinfo is None and has_zone(name):
                    instant = instant.replace(tzinfo=UTC)
            parsed = _parse_datetime(instant, zone)
        except (ValueError, OverflowError):
            continue  # the text has another format; msgspec.ValidationError is a ValueError
        if isinstance(parsed, int):
            return parsed
        error = error or parsed
    return error or ("bad_time", f"{text[:60]!r} does not match {' or '.join(formats)}")


def _parse_datetime(instant: datetime, zone: str | None) -> int | TimeError:
    if instant.tzinfo is not None:
        since = micros(instant)
        return since if EARLIEST <= since <= LATEST else _outside(str(instant))
    if zone is None:
        return "naive_time", f"{str(instant)!r} has no time zone"
    local = instant.replace(tzinfo=ZoneInfo(zone), fold=0)
    try:
        if local.astimezone(UTC).astimezone(local.tzinfo).replace(tzinfo=None) != instant:
            return "bad_time", f"{str(instant)!r} does not exist in {zone}: the clocks skip it"
        return micros(local.astimezone(UTC))
    except OverflowError:
        return _outside(str(instant))


def _outside(instant: str) -> TimeError:
    return "out_of_range", f"{instant[:60]!r} lies outside the years 1 to 9999 in UTC"


def _find_factor(formats: Sequence[str]) -> int | None:
    """Find the microseconds in one unit of a number; None: the formats allow no number."""
    return next((EPOCH_FORMATS[name] for name in formats if name in EPOCH_FORMATS), None)


def has_zone(pattern: str) -> bool:
    """Whether a strptime format names the zone of its texts as literal text (`UTC`, `GMT`, `Z`)."""
    return _ZONES.search(_DIRECTIVE.sub(" ", pattern)) is not None


def _polars_parsers(
    formats: Sequence[str], zone: str | None
) -> list[tuple[str, int, Callable[[pl.Series], pl.Series]]]:
    """The formats that polars parses exactly as strptime does.

    Returns:
        For each its pattern, the length of a padded text, and a function from the naive times that polars
        parses to naive UTC.
    """

    def keep_utc(naive: pl.Series) -> pl.Series:
        return naive

    def convert_local(naive: pl.Series) -> pl.Series:
        # Outside these years polars and zoneinfo do not have the same clock changes.
        reliable = pl.select(pl.when(naive.dt.year().is_between(1970, 2099)).then(naive)).to_series()
        local = reliable.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        return local.dt.convert_time_zone("UTC").dt.replace_time_zone(None)

    parsers: list[tuple[str, int, Callable[[pl.Series], pl.Series]]] = []
    for name in formats:
        if name == "rfc3339":
            parsers.append(("%Y-%m-%dT%H:%M:%SZ", 20, keep_utc))
            if zone is not None:
                parsers.append(("%Y-%m-%dT%H:%M:%S", 19, convert_local))
            continue
        directives = _DIRECTIVE.findall(name)
        literal = _DIRECTIVE.sub(" ", name)
        # Only formats with each of the six directives exactly once: polars reads others differently.
        if sorted(directives) == sorted(_WIDTHS) and literal.isascii():
            width = len(_DIRECTIVE.sub("", name)) + sum(_WIDTHS[directive] for directive in directives)
            if has_zone(name):
                parsers.append((name, width, keep_utc))
            elif zone is not None:
                parsers.append((name, width, convert_local))
    return parsers
