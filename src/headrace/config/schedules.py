"""Schedules: the builds that `up` runs by itself, each a block `[schedule.NAME]` of headrace.toml."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct

from headrace.kernel.errors import ProjectError
from headrace.kernel.time import format_duration, parse_duration

__all__ = ["Schedule", "parse_schedules"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_LIMITS = {
    "every": (timedelta(seconds=1), timedelta(days=366)),
    "retry_delay": (timedelta(0), timedelta(days=1)),
}
_MOST_RETRIES = 10
_REMEDY = 'Write [schedule.NAME] and below it every = "1h", cron = "0 4 * * *" or topics = ["TOPIC"].'
_ON_TOPICS = timedelta(minutes=1)  # the interval of a schedule that names topics alone


class _Block(Struct, frozen=True, forbid_unknown_fields=True):
    """A block as it is written; `Schedule` says what each key means."""

    every: str | None = None
    cron: str | None = None
    timezone: str | None = None
    topics: tuple[str, ...] = ()
    build: tuple[str, ...] = ()
    catch_up: bool | None = None
    retries: int = 2
    retry_delay: str = "1m"
    profiles: tuple[str, ...] = ()


class Schedule(Struct, frozen=True):
    """When a build runs, and of what.

    Attributes:
        name: its name.
        every: the time from the start of a run to the start of the next one; None: `cron` says when.
        cron: minute, hour, day of month, month, day of week, as in Debian's cron; None: `every` says when.
        timezone: the time zone of `cron`.
        topics: a run starts only if the table of one of these topics has changed since the last run; empty: a
            run needs no new events.
        build: the stages, tables or models that are built; empty: everything.
        catch_up: whether a time of `cron` that passed while `up` did not run is made up for by one run.
        retries: how often a failed build is tried again before the next regular run.
        retry_delay: the time before the first of these; each further one waits twice as long.
    """

    name: str
    every: timedelta | None
    cron: str | None
    timezone: str
    topics: tuple[str, ...]
    build: tuple[str, ...]
    catch_up: bool
    retries: int
    retry_delay: timedelta

    @property
    def trigger(self) -> str:
        """When it runs, as a text without its name."""
        when = (
            f"cron {self.cron} {self.timezone}"
            if self.every is None
            else f"every {format_duration(self.every)}"
        )
        return f"{when}, on new events of {', '.join(self.topics)}" if self.topics else when

    def next_cron(self, after: datetime) -> datetime | None:
        """The first time of `cron` after the instant, in UTC; None: it never comes."""
        from zoneinfo import ZoneInfo

        from cronsim import CronSim

        assert self.cron is not None
        local = next(CronSim(self.cron, after.astimezone(ZoneInfo(self.timezone))), None)
        return None if local is None else local.astimezone(UTC)


def parse_schedules(blocks: Any, profile: str, profiles: Collection[str], where: str) -> tuple[Schedule, ...]:
    """The schedules of a profile.

    Args:
        blocks: the content of `[schedule]`: name → block.
        profile: the name of the profile.
        profiles: the names of all profiles.
        where: the file, for errors.

    Raises:
        ProjectError: a block is wrong; the error names the key.
    """
    if not isinstance(blocks, Mapping):
        raise ProjectError("it must be a block of schedules", where=f"{where}: schedule", remedy=_REMEDY)
    schedules = []
    for name, content in blocks.items():
        place = f"{where}: schedule.{name}"
        if not isinstance(content, Mapping):
            raise ProjectError(f"{name!r} is not the block of a schedule", where=place, remedy=_REMEDY)
        if not _NAME.fullmatch(name):
            raise ProjectError(
                f"{name!r} is not a valid schedule name",
                where=place,
                remedy="Use lower-case letters, digits and _.",
            )
        try:
            block = msgspec.convert(content, _Block)
        except msgspec.ValidationError as error:
            raise ProjectError(str(error), where=place) from error
        schedule = _check(name, block, place)
        for wrong in sorted(set(block.profiles) - set(profiles)):
            raise ProjectError(
                f"profile {wrong!r} does not exist",
                where=f"{place}.profiles",
                remedy=f"Its profiles are {', '.join(sorted(profiles))}.",
            )
        if not block.profiles or profile in block.profiles:
            schedules.append(schedule)
    return tuple(schedules)


def _check(name: str, block: _Block, place: str) -> Schedule:
    if (block.every is not None and block.cron is not None) or not (block.every or block.cron or block.topics):
        raise ProjectError(
            "it needs every or cron or topics, and not every and cron", where=place, remedy=_REMEDY
        )
    for key in ("timezone", "catch_up"):
        if block.cron is None and getattr(block, key) is not None:
            raise ProjectError(f"{key} belongs to cron, and there is none", where=f"{place}.{key}")
    if not 0 <= block.retries <= _MOST_RETRIES:
        raise ProjectError(f"retries must be a number from 0 to {_MOST_RETRIES}", where=f"{place}.retries")
    schedule = Schedule(
        name=name,
        every=None if block.cron is not None else _duration(block.every, place, "every") or _ON_TOPICS,
        cron=block.cron,
        timezone=block.timezone or "UTC",
        topics=block.topics,
        build=block.build,
        catch_up=block.catch_up is not False,
        retries=block.retries,
        retry_delay=_duration(block.retry_delay, place, "retry_delay") or timedelta(0),
    )
    if schedule.cron is not None:
        _check_cron(schedule, place)
    return schedule


def _duration(text: str | None, place: str, key: str) -> timedelta | None:
    if text is None:
        return None
    try:
        duration = parse_duration(text)
    except ValueError as error:
        raise ProjectError(str(error), where=f"{place}.{key}") from error
    shortest, longest = _LIMITS[key]
    if not shortest <= duration <= longest:
        limits = f"{format_duration(shortest)} to {format_duration(longest)}"
        raise ProjectError(f"{key} must be a duration of {limits}", where=f"{place}.{key}")
    return duration


def _check_cron(schedule: Schedule, place: str) -> None:
    from zoneinfo import ZoneInfo

    from cronsim import CronSimError

    try:
        ZoneInfo(schedule.timezone)
    except (KeyError, ValueError, OSError) as error:
        raise ProjectError(
            f"time zone {schedule.timezone!r} does not exist",
            where=f"{place}.timezone",
            remedy='Name one of the IANA database, such as "Europe/Berlin".',
        ) from error
    cron = schedule.cron or ""
    try:
        if len(cron.split()) != 5:
            raise CronSimError("Wrong number of fields")
        comes = schedule.next_cron(datetime(2024, 1, 1, tzinfo=UTC)) is not None
    except CronSimError as error:
        raise ProjectError(
            f"{cron!r} is not a valid cron expression: {error}",
            where=f"{place}.cron",
            remedy='Write minute, hour, day of month, month and day of week, such as "30 4 * * 1".',
        ) from error
    if not comes:
        raise ProjectError(f"the time of {cron!r} never comes", where=f"{place}.cron")
