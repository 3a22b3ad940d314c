"""Failed schedules: an alert source that watches how the builds of the project's schedules end."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.alerts.record import Alert
from headrace.alerts.source import Finding
from headrace.config.schedules import Schedule
from headrace.config.settings import Settings
from headrace.kernel.secrets import clean_text
from headrace.projects.schedules import ScheduleRun, ScheduleState, due_at, read_schedule_states

__all__ = ["ScheduleSource"]

_REASON = "the build failed"
_LOOK = "headrace status"


class ScheduleSource:
    """Watches the schedules of a profile (headrace.alerts.source.AlertSource).

    The subject of an alert is the schedule. It is a warning while the build is tried again, and critical when
    the last attempt has failed; it is over when a run has succeeded.

    Args:
        settings: the settings of the project.
    """

    name = "schedules"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._states: dict[str, ScheduleState] = {}
        self._gone: list[str] = []  # schedules that have an alert and are declared no longer

    def observe(self, open: Sequence[Alert]) -> None:
        """Reads the runs that the scheduler has recorded (AlertSource.observe)."""
        self._states = read_schedule_states(self._settings)
        declared = {schedule.name for schedule in self._settings.schedules}
        self._gone = [alert.subject for alert in open if alert.subject not in declared]

    def judge(self, open: Sequence[Alert]) -> list[Finding]:  # noqa: ARG002
        """One finding for each schedule that has run to an end, or has an open alert and is gone."""
        findings = []
        for schedule in self._settings.schedules:
            state = self._states.get(schedule.name)
            ended = [run for run in state.runs if run.outcome in ("succeeded", "failed")] if state else []
            if state is not None and ended:
                findings.append(_judge_run(schedule, state, ended[-1]))
        over = "it is not declared any more"
        return findings + [Finding(name, _REASON, None, over, _LOOK, {}) for name in self._gone]

    def settle(self) -> None:
        """Does nothing: each round reads the states anew (AlertSource.settle)."""


def _judge_run(schedule: Schedule, state: ScheduleState, run: ScheduleRun) -> Finding:
    facts: dict[str, str | int | float | None] = {"attempt": run.attempt, "started": run.started.isoformat()}
    if run.outcome == "succeeded":
        why = f"the build of schedule {schedule.name} succeeded"
        return Finding(schedule.name, _REASON, None, why, _LOOK, facts)
    is_last = run.attempt > schedule.retries
    due, _ = due_at(schedule, state)
    then = "no run is due" if due is None else f"the next one is due at {due:%Y-%m-%d %H:%M:%S} UTC"
    why = (
        f"attempt {run.attempt} of {schedule.retries + 1} to build schedule {schedule.name} failed"
        f" ({clean_text(run.error or 'without an error')}); {then}"
    )
    return Finding(schedule.name, _REASON, "critical" if is_last else "warning", why, _LOOK, facts)
