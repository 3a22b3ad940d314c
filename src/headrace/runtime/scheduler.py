"""Scheduler: starts the builds of the project's schedules, one at a time, each in a child process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec

from headrace.config.schedules import Schedule
from headrace.config.settings import Settings
from headrace.kernel.children import Child
from headrace.kernel.errors import HeadraceError
from headrace.kernel.lock import find_holder
from headrace.kernel.private import user_umask
from headrace.kernel.time import now
from headrace.projects.schedules import (
    ScheduleRun,
    ScheduleState,
    due_at,
    read_schedule_states,
    write_schedule_states,
)
from headrace.runtime.child import start_child

__all__ = ["Scheduler"]

_GRACE = 10.0  # seconds that a build may take to end
_KEPT_RUNS = 20  # of each schedule


class Scheduler:
    """Starts each schedule's build when it is due. It never runs two builds at the same time.

    A schedule that is due while another build runs, also one by hand, starts after it, once.

    Args:
        settings: the settings of the project.
        snapshots: returns, for topics, table → the snapshot that wrote its rows (TopicTables.read_snapshots).
        report: called with a line about a run that failed, or why new events cannot be looked for.
    """

    def __init__(
        self,
        settings: Settings,
        snapshots: Callable[[Sequence[str]], dict[str, int | None]],
        report: Callable[[str], None],
    ) -> None:
        self._settings, self._snapshots, self._report = settings, snapshots, report
        self._running: tuple[Schedule, Child] | None = None
        self._problems: dict[str, str] = {}  # schedule → why new events could not be looked for
        before = read_schedule_states(settings)
        self._states = {
            schedule.name: _take_up(schedule, before.get(schedule.name)) for schedule in settings.schedules
        }
        write_schedule_states(settings, self._states)

    def check(self) -> None:
        """Records a run that has ended, and starts a run that is due. Call it a few times a second."""
        if self._running is not None:
            code = self._running[1].process.poll()
            if code is None:
                return
            self._record_end(*self._running, code)
        if find_holder(self._settings.place("build.lock")) is not None:
            return
        due = [(instant, schedule) for schedule in self._settings.schedules if (instant := self._due(schedule))]
        for _, schedule in sorted(due, key=lambda pair: pair[0]):
            if self._start_if_needed(schedule):
                return

    def end(self) -> None:
        """Ends a running build. It is due again at once when the next scheduler starts."""
        if self._running is not None:
            schedule, build = self._running
            build.terminate()
            build.end(time.monotonic() + _GRACE)
            self._end_run(schedule, outcome="interrupted")

    def _due(self, schedule: Schedule) -> datetime | None:
        """When a run was due that is due now; None: none is."""
        state, instant = self._states[schedule.name], now()
        due, _ = due_at(schedule, state)
        last = state.last
        if due is None or (due > instant and (last is None or last.started <= instant)):
            return None
        return min(due, instant)  # the clock was set back behind the last run: it is due

    def _start_if_needed(self, schedule: Schedule) -> bool:
        """Starts the run, unless it needs new events and there are none."""
        state = self._states[schedule.name]
        _, again = due_at(schedule, state)
        snapshots = self._read_snapshots(schedule)
        if snapshots is None:
            return False
        if schedule.topics and not again and not _is_newer(snapshots, state.snapshots):
            if schedule.cron is not None:  # this time of the clock is over
                self._write(schedule, msgspec.structs.replace(state, since=now()))
            return False
        run = ScheduleRun(started=now(), attempt=state.next_attempt if again else 1)
        runs = (*state.runs, run)[-_KEPT_RUNS:]
        self._write(schedule, msgspec.structs.replace(state, snapshots=snapshots, runs=runs))
        # A build writes files of the project itself, which other users may read.
        build = start_child("build", self._settings, arguments=schedule.build, umask=user_umask())
        self._running = schedule, build
        return True

    def _read_snapshots(self, schedule: Schedule) -> dict[str, int | None] | None:
        """The snapshots of the tables of its topics; None: they cannot be read now, which is reported once."""
        if not schedule.topics:
            return {}
        try:
            snapshots = self._snapshots(schedule.topics)
        except HeadraceError as error:
            problem = str(error)
            if problem != self._problems.get(schedule.name):
                self._report(f"schedule {schedule.name} cannot look for new events: {problem}")
            self._problems[schedule.name] = problem
            return None
        self._problems.pop(schedule.name, None)
        return snapshots

    def _record_end(self, schedule: Schedule, build: Child, code: int) -> None:
        reason = build.find_end_reason(code)
        build.end(time.monotonic() + _GRACE)
        if code == 0:
            self._end_run(schedule, outcome="succeeded")
            return
        error = f"{_describe_end(code)}: {reason}"
        self._end_run(schedule, outcome="failed", error=error)
        due, again = due_at(schedule, self._states[schedule.name])
        when = "never" if due is None else f"at {due:%Y-%m-%d %H:%M:%S} UTC"
        attempt = self._states[schedule.name].next_attempt
        then = f"attempt {attempt} of {schedule.retries + 1}" if again else "the next regular run"
        self._report(f"the build of schedule {schedule.name} failed ({error}); {then} is due {when}")

    def _end_run(self, schedule: Schedule, **changes: str) -> None:
        state = self._states[schedule.name]
        assert state.last is not None
        last = msgspec.structs.replace(state.last, ended=now(), **changes)
        self._running = None
        self._write(schedule, msgspec.structs.replace(state, runs=(*state.runs[:-1], last)))

    def _write(self, schedule: Schedule, state: ScheduleState) -> None:
        self._states[schedule.name] = state
        write_schedule_states(self._settings, self._states)


def _take_up(schedule: Schedule, state: ScheduleState | None) -> ScheduleState:
    """The state of a schedule when a scheduler starts."""
    if state is None:
        return ScheduleState(schedule.trigger, since=now())
    if state.last is not None and state.last.outcome is None:  # the process was killed
        last = msgspec.structs.replace(state.last, outcome="interrupted")
        state = msgspec.structs.replace(state, runs=(*state.runs[:-1], last))
    if state.trigger != schedule.trigger or not schedule.catch_up:
        return msgspec.structs.replace(state, trigger=schedule.trigger, since=now())
    return state


def _is_newer(snapshots: Mapping[str, int | None], before: Mapping[str, int | None]) -> bool:
    """Whether a table has other rows than before."""
    return any(snapshot is not None and before.get(table) != snapshot for table, snapshot in snapshots.items())


def _describe_end(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit {code}"
