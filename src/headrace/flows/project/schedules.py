"""Schedules: when each runs next, and how its last runs ended."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from headrace.config.settings import Settings
from headrace.kernel.time import now
from headrace.projects.schedules import ScheduleRun, ScheduleState, due_at, read_schedule_states

__all__ = ["ScheduleStatus", "schedule_status"]


class ScheduleStatus(Struct, frozen=True):
    """A schedule of the profile.

    Attributes:
        name: its name.
        trigger: when it runs, in words.
        build: what it builds; empty: everything.
        due: from when on the next run starts, if `up` runs (and there are new events, where it waits for them);
            None: never.
        runs: the newest runs, the newest first.
    """

    name: str
    trigger: str
    build: tuple[str, ...]
    due: datetime | None
    runs: tuple[ScheduleRun, ...]


def schedule_status(settings: Settings) -> tuple[ScheduleStatus, ...]:
    """The schedules of the profile, in the order of headrace.toml."""
    states = read_schedule_states(settings)
    schedules = []
    for schedule in settings.schedules:
        state = states.get(schedule.name) or ScheduleState(schedule.trigger, since=now())
        due, _ = due_at(schedule, state)
        schedules.append(ScheduleStatus(schedule.name, schedule.trigger, schedule.build, due, state.runs[::-1]))
    return tuple(schedules)
