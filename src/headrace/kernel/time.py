"""Time: instants are UTC, stored as whole microseconds since 1970; durations are written `30m`, `1d`."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from time import time_ns

__all__ = [
    "add_days",
    "format_age",
    "format_duration",
    "from_micros",
    "micros",
    "now",
    "now_micros",
    "parse_duration",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
"""Unit → microseconds."""
_TERM = re.compile(r"(\d+)(ms|[smhdw])")


def now() -> datetime:
    """The current instant, in UTC."""
    return datetime.now(UTC)


def now_micros() -> int:
    """The current instant in microseconds since 1970."""
    return time_ns() // 1_000


def micros(instant: datetime) -> int:
    """Microseconds since 1970 of an aware datetime, exactly.

    Raises:
        ValueError: the datetime has no time zone.
    """
    if instant.tzinfo is None:
        raise ValueError(f"{instant} has no time zone")
    return (instant - _EPOCH) // timedelta(microseconds=1)


def from_micros(value: int) -> datetime:
    """The instant, in UTC, of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=value)


def add_days(day: date, span: timedelta) -> date:
    """The day a span later (or earlier), in whole days; at most the last, at least the first possible day."""
    days = day.toordinal() + span // timedelta(days=1)
    return date.fromordinal(min(max(days, date.min.toordinal()), date.max.toordinal()))


def parse_duration(value: str | timedelta) -> timedelta:
    """Parses a duration: a timedelta, or text such as `30m`, `1d`, `1h30m`, `250ms`.

    Raises:
        ValueError: the value is of another type, or the text is not a duration.
    """
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        raise ValueError(f'{value!r} is not a valid duration: write a text such as "7d", "30m" or "1h30m"')
    terms = _TERM.findall(value)
    if not terms or "".join(number + unit for number, unit in terms) != value:
        raise ValueError(f"{value!r} is not a valid duration: write it as 30m, 1d or 1h30m")
    try:
        return timedelta(microseconds=sum(int(number) * _UNITS[unit] for number, unit in terms))
    except OverflowError as error:
        raise ValueError(f"{value!r} is too long for a duration") from error


def format_age(age: timedelta) -> str:
    """How long ago, in the largest unit that fits, such as `3 h ago`."""
    seconds = int(age.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{max(seconds, 0)} s ago"


def format_duration(value: timedelta) -> str:
    """The shortest text that `parse_duration` reads as the same duration, to the millisecond."""
    rest = value // timedelta(microseconds=1)
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, rest = divmod(rest, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
