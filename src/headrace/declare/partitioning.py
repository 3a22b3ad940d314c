"""Partitionings of tables: by hour, day or month of a column, or by the hash of a key.

A partition has a number, the one that Iceberg stores for it: whole hours, days or months since 1970, or the
bucket of the hash. `name_partition` gives its name.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

import attrs

from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError
from headrace.kernel.time import parse_duration

__all__ = [
    "Grain",
    "Partitioning",
    "by",
    "day",
    "days_read",
    "hour",
    "month",
    "name_partition",
    "number_of",
    "start_of",
]

Grain = Literal["hour", "day", "month", "hash"]
_EPOCH = date(1970, 1, 1)
_MAX_PARTS = 4096
_LENGTHS = {"hour": timedelta(hours=1), "day": timedelta(days=1)}


@attrs.frozen
class Partitioning:
    """How a table is divided into partitions, each of which is made by itself.

    Attributes:
        grain: `hour`, `day` or `month` of the column's time, or `hash` of its value.
        column: the column.
        before, after: how many partitions of the input before and after its own each partition reads as well.
        timezone: the time zone whose days or months these are; None: UTC.
        parts: how many partitions a hash has; 0 for the other grains.
    """

    grain: Grain
    column: str
    before: int = 0
    after: int = 0
    timezone: str | None = None
    parts: int = 0

    @property
    def is_time(self) -> bool:
        """Whether the partitions are spans of time."""
        return self.grain != "hash"

    @property
    def transform(self) -> str:
        """Iceberg's name of the function from the column's value to the partition's number."""
        return self.grain if self.is_time else f"bucket[{self.parts}]"

    @property
    def limits(self) -> tuple[int, int]:
        """The first and the last number that a partition can have."""
        if not self.is_time:
            return 0, self.parts - 1
        return number_of(self.grain, datetime.min), number_of(self.grain, datetime.max)

    def spread(self, inputs: Iterable[int]) -> set[int]:
        """The partitions that read any of these partitions of the input: n - after to n + before for each n."""
        first, last = self.limits
        return {
            min(max(number + step, first), last)
            for number in inputs
            for step in range(-self.after, self.before + 1)
        }

    def window(self, first: int, last: int) -> tuple[int, int]:
        """The first and the last partition of the input that the partitions `first` to `last` read."""
        lowest, highest = self.limits
        return max(first - self.before, lowest), min(last + self.after, highest)

    def describe(self) -> str:
        """The declaration's meaning in words, such as "by the day of 'at'"."""
        if not self.is_time:
            return f"by the hash of {self.column!r} into {self.parts} parts"
        return f"by the {self.grain} of {self.column!r}"


def number_of(grain: Grain, moment: date) -> int:
    """The number of the partition that a date or a datetime without a zone is in."""
    if grain == "month":
        return (moment.year - 1970) * 12 + moment.month - 1
    days = moment.toordinal() - _EPOCH.toordinal()
    if grain == "hour":
        return days * 24 + (moment.hour if isinstance(moment, datetime) else 0)
    return days


def start_of(grain: Grain, number: int) -> datetime:
    """The first moment of a span of time, without a zone."""
    if grain == "month":
        return datetime(1970 + number // 12, number % 12 + 1, 1)
    return datetime(1970, 1, 1) + number * _LENGTHS[grain]


def days_read(partitioning: Partitioning, first: date, last: date) -> tuple[date, date] | None:
    """The first and the last UTC day of the input that the partitions of some days read; None: any day.

    In a time zone they may be a day more on either side.
    """
    if not partitioning.is_time:
        return None
    grain = partitioning.grain
    numbers = number_of(grain, first), number_of(grain, datetime.combine(last, datetime.max.time()))
    begin, end = partitioning.window(*numbers)
    day_before = timedelta(0 if partitioning.timezone is None else 1)
    start = start_of(grain, begin).date()
    stop = (
        date.max if end >= partitioning.limits[1] else (start_of(grain, end + 1) - timedelta(seconds=1)).date()
    )
    return (
        start - min(day_before, start - date.min),
        stop + min(day_before, date.max - stop),
    )


def name_partition(partitioning: Partitioning, number: int) -> str:
    """The partition's name: `2026-11-03T10`, `2026-11-03`, `2026-11`, or the number of the part."""
    if not partitioning.is_time:
        return str(number)
    start = start_of(partitioning.grain, number)
    return start.isoformat()[: {"hour": 13, "day": 10, "month": 7}[partitioning.grain]]


def hour(column: str, *, before: str | timedelta = "0s", after: str | timedelta = "0s") -> Partitioning:
    """Partitions a table by the UTC hour of a column; otherwise as `day`, `before` and `after` in whole hours.

    Raises:
        ProjectError: the column is not text, or `before` or `after` is not a whole number of hours, 0 or more.
    """
    return Partitioning(
        "hour", _column("hour", column), _count("hour", "before", before), _count("hour", "after", after)
    )


def day(
    column: str,
    *,
    before: str | timedelta = "0s",
    after: str | timedelta = "0s",
    timezone: str | None = None,
) -> Partitioning:
    """Partitions a table by the day of a column.

    Output day D is made from the input days D - `before` to D + `after`, by the input's own time: an event's
    `time` field, or the column by which the input table is partitioned. A function that takes `now` runs again
    for D until the input's clock has passed the end of D + `after`.

        @table(reads=Click, partition_by=day("at", before="7d"))

    Args:
        column: the column of the table, a date or a datetime.
        before: how many days before its own a partition reads as well, as text such as `7d` or a timedelta.
        after: how many days after its own.
        timezone: the zone whose days these are, such as `Europe/Berlin`: the column is then a date of that
            zone. None: UTC.

    Raises:
        ProjectError: the column is not text, `before` or `after` is not a whole number of days, 0 or more, or
            the time zone does not exist.
    """
    return Partitioning(
        "day",
        _column("day", column),
        _count("day", "before", before),
        _count("day", "after", after),
        _zone(timezone),
    )


def month(column: str, *, before: int = 0, after: int = 0, timezone: str | None = None) -> Partitioning:
    """Partitions a table by the month of a column; otherwise as `day`, `before` and `after` in months.

        @table(reads=orders, partition_by=month("ordered_at", before=1))

    Raises:
        ProjectError: the column is not text, `before` or `after` is not a whole number, 0 or more, or the time
            zone does not exist.
    """
    for name, value in (("before", before), ("after", after)):
        if type(value) is not int or value < 0:
            raise ProjectError(
                f"{name}={value!r} must be a whole number of months, 0 or more", where=str(Place.of_caller())
            )
    return Partitioning("month", _column("month", column), before, after, _zone(timezone))


def by(column: str, *, parts: int = 64) -> Partitioning:
    """Partitions a table by the hash of a key, such as a customer's: for tables that go beyond single days.

    The function is called for each part, with the rows of its keys. Inputs that are partitioned, or topics,
    and have the column, are restricted to these keys; others are read whole.

        @table(reads=clean_events, partition_by=by("user_id", parts=64))

    Args:
        column: the key: whole numbers, texts or dates.
        parts: how many partitions. A change of one key makes one of them again.

    Raises:
        ProjectError: the column is not text, or `parts` is not a whole number from 1 to 4096.
    """
    if type(parts) is not int or not 1 <= parts <= _MAX_PARTS:
        raise ProjectError(
            f"parts={parts!r} must be a whole number from 1 to {_MAX_PARTS:,}", where=str(Place.of_caller())
        )
    return Partitioning("hash", _column("by", column), parts=parts)


def _column(function: str, column: str) -> str:
    if not isinstance(column, str):
        raise ProjectError(f"{function}({column!r}): name the column", where=str(Place.of_caller()))
    return column


def _count(grain: Grain, name: str, value: str | timedelta) -> int:
    place = str(Place.of_caller())
    try:
        span = parse_duration(value)
    except ValueError as error:
        raise ProjectError(f"{name}: {error}", where=place) from error
    if span % _LENGTHS[grain]:
        raise ProjectError(f"{name}={value!r} must be whole {grain}s", where=place)
    if span < timedelta(0):
        raise ProjectError(f"{name}={value!r} must not be negative", where=place)
    return span // _LENGTHS[grain]


def _zone(timezone: str | None) -> str | None:
    if timezone is None or timezone == "UTC":
        return None
    try:
        ZoneInfo(timezone)
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise ProjectError(
            f"timezone={timezone!r} is not a valid time zone",
            where=str(Place.of_caller()),
            remedy="Name a zone of the IANA database, such as Europe/Berlin.",
        ) from error
    return timezone
