"""When a schedule's next run is due, after each way in which the last one ended."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headrace.config.schedules import Schedule
from headrace.config.settings import make_settings
from headrace.projects.schedules import (
    ScheduleRun,
    ScheduleState,
    due_at,
    read_schedule_states,
    write_schedule_states,
)

HOURLY = Schedule("hourly", timedelta(hours=1), None, "UTC", (), (), True, 2, timedelta(minutes=1))
NIGHTLY = Schedule("nightly", None, "0 4 * * *", "UTC", (), (), True, 2, timedelta(minutes=1))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def state(*runs: ScheduleRun, since: str = "2026-01-01T00:00") -> ScheduleState:
    return ScheduleState("", at(since), {}, runs)


def run(outcome: str | None, attempt: int = 1) -> ScheduleRun:
    ended = None if outcome is None else at("2026-01-10T04:10")
    return ScheduleRun(at("2026-01-10T04:00"), attempt, ended, outcome)


@pytest.mark.parametrize(
    ("schedule", "known", "due"),
    [
        (HOURLY, state(), ("2026-01-01T00:00", False)),  # a new schedule runs at once
        (HOURLY, state(run("succeeded")), ("2026-01-10T05:00", False)),  # from start to start
        (HOURLY, state(run("failed", 1)), ("2026-01-10T04:11", True)),  # after retry_delay
        (HOURLY, state(run("failed", 2)), ("2026-01-10T04:12", True)),  # after twice as long
        (HOURLY, state(run("failed", 3)), ("2026-01-10T05:00", False)),  # no attempt is left
        (HOURLY, state(run("interrupted")), ("2026-01-10T04:00", True)),  # at once
        (NIGHTLY, state(), ("2026-01-01T04:00", False)),
        (NIGHTLY, state(run("succeeded")), ("2026-01-11T04:00", False)),
        (NIGHTLY, state(run("failed", 3)), ("2026-01-11T04:00", False)),
        (NIGHTLY, state(run("succeeded"), since="2026-01-20T05:00"), ("2026-01-21T04:00", False)),
    ],
)
def test_the_next_run_is_due(schedule: Schedule, known: ScheduleState, due: tuple[str, bool]) -> None:
    assert due_at(schedule, known) == (at(due[0]), due[1])


def test_a_failed_run_counts_as_an_attempt_and_an_interrupted_one_does_not() -> None:
    ends = [("succeeded", 1), ("failed", 1), ("failed", 2), ("interrupted", 2)]
    assert [state(run(*end)).next_attempt for end in ends] == [1, 2, 3, 2]


def test_states_are_read_as_written_and_a_broken_file_counts_as_none(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, "tiny")
    assert read_schedule_states(settings) == {}
    states = {"hourly": state(run("failed", 2)), "nightly": state()}
    write_schedule_states(settings, states)
    assert read_schedule_states(settings) == states
    settings.place("schedules.json").write_bytes(b'{"hourly": ')
    assert read_schedule_states(settings) == {}
