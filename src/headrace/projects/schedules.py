"""The runs of the project's schedules, which `up` records in the state folder."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import msgspec
from msgspec import Struct

from headrace.config.schedules import Schedule
from headrace.config.settings import Settings
from headrace.kernel.files import write_file

__all__ = ["ScheduleRun", "ScheduleState", "due_at", "read_schedule_states", "write_schedule_states"]

_FILE = "schedules.json"


class ScheduleRun(Struct, frozen=True):
    """One run of a schedule's build.

    Attributes:
        started, ended: when; `ended` is None while it runs.
        attempt: 1, or more if the runs before it failed.
        outcome: `interrupted`: `up` ended before it did. None: it runs.
        error: why it failed: the last line of its log, and the log's path.
    """

    started: datetime
    attempt: int
    ended: datetime | None = None
    outcome: Literal["succeeded", "failed", "interrupted"] | None = None
    error: str | None = None


class ScheduleState(Struct, frozen=True):
    """What is known of a schedule.

    Attributes:
        trigger: `Schedule.trigger` when it was written.
        since: times of `cron` up to this one are over.
        snapshots: table of a topic → the snapshot of its rows when the last run started.
        runs: the newest runs, the newest last.
    """

    trigger: str
    since: datetime
    snapshots: dict[str, int | None] = {}
    runs: tuple[ScheduleRun, ...] = ()

    @property
    def last(self) -> ScheduleRun | None:
        """The newest run."""
        return self.runs[-1] if self.runs else None

    @property
    def next_attempt(self) -> int:
        """The attempt that the next run is, if it is due because of the last one."""
        if self.last is None or self.last.outcome == "succeeded":
            return 1
        return self.last.attempt + (self.last.outcome == "failed")


def read_schedule_states(settings: Settings) -> dict[str, ScheduleState]:
    """Schedule → its state; without those that never ran.

    A file that cannot be read counts as none: the schedules then run as if they were new.
    """
    try:
        data = settings.place(_FILE).read_bytes()
        return msgspec.json.decode(data, type=dict[str, ScheduleState])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


def write_schedule_states(settings: Settings, states: Mapping[str, ScheduleState]) -> None:
    """Writes the state of every schedule in one step."""
    settings.make_state()
    write_file(settings.place(_FILE), msgspec.json.encode(dict(states)))


def due_at(schedule: Schedule, state: ScheduleState) -> tuple[datetime | None, bool]:
    """When the next run is due, and whether it is due because the last one did not succeed.

    A run that was interrupted is due at once; one that failed after `retry_delay`, which doubles each time, up
    to `retries` times. Otherwise the next time of the schedule counts; None if there is none.
    """
    last = state.last
    if last is not None and last.outcome == "interrupted":
        return last.started, True
    if last is not None and last.outcome == "failed" and last.attempt <= schedule.retries:
        return (last.ended or last.started) + schedule.retry_delay * 2 ** (last.attempt - 1), True
    if schedule.every is not None:
        return (state.since if last is None else last.started + schedule.every), False
    return schedule.next_cron(state.since if last is None else max(state.since, last.started)), False
