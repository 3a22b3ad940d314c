"""A schedule whose build fails raises an alert, which ends when a build succeeds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.tiny import write

from headrace.alerts.record import Alert, AlertFollower, open_alerts
from headrace.alerts.watch import AlertWatch
from headrace.config.settings import Settings, load_settings
from headrace.projects.schedules import ScheduleRun, ScheduleState, write_schedule_states
from headrace.runtime.housekeeping import housekeeping
from headrace.runtime.schedule_alerts import ScheduleSource
from headrace.workspace import Workspace

AT = datetime(2026, 4, 3, 4, tzinfo=UTC)
SCHEDULES = '[schedule.nightly]\ncron="0 4 * * *"\nretries=1\nretry_delay="1m"\n'


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    root = write(tmp_path / "p", "")
    with (root / "headrace.toml").open("a") as file:
        file.write(SCHEDULES)
    return load_settings(root)


def watch(settings: Settings, *runs: ScheduleRun, name: str = "nightly") -> list[Alert]:
    """The open alerts after the schedule has run so."""
    write_schedule_states(settings, {name: ScheduleState("cron", since=AT, runs=runs)})
    with Workspace(settings) as workspace:
        with AlertWatch([ScheduleSource(settings)], workspace.log, workspace.lake):
            pass  # it looks once more when the block ends
        return open_alerts(workspace.log)


def failed(attempt: int, minutes: int = 0) -> ScheduleRun:
    started = AT + timedelta(minutes=minutes)
    error = "exit 1: table sales: postgresql://ann:secret@db.example/shop refuses it"
    return ScheduleRun(started, attempt, started + timedelta(seconds=9), "failed", error)


def test_a_failed_build_raises_an_alert_until_one_succeeds(settings: Settings) -> None:
    running = ScheduleRun(AT, 1)
    assert watch(settings, running) == []
    (alert,) = watch(settings, failed(1))
    assert (alert.subject, alert.reason, alert.severity) == ("nightly", "the build failed", "warning")
    assert alert.why.startswith("attempt 1 of 2 to build schedule nightly failed (exit 1: table sales: ")
    assert alert.why.endswith("the next one is due at 2026-04-03 04:01:09 UTC")
    assert "secret" not in alert.why
    assert watch(settings, failed(1), ScheduleRun(AT, 2)) == [alert]  # the next attempt runs
    (changed,) = watch(settings, failed(1), failed(2, minutes=1))
    assert (changed.state, changed.severity, changed.alert) == ("changed", "critical", alert.alert)
    assert "2026-04-04 04:00:00 UTC" in changed.why
    interrupted = ScheduleRun(AT, 1, AT, "interrupted")
    assert watch(settings, failed(2), interrupted) == [changed]
    assert watch(settings, failed(2), ScheduleRun(AT, 1, AT, "succeeded")) == []
    assert watch(settings, ScheduleRun(AT, 1, AT, "succeeded"), failed(1))[0].state == "raised"


def test_the_alert_of_a_schedule_that_is_gone_is_over(settings: Settings) -> None:
    assert len(watch(settings, failed(1))) == 1
    file = settings.root / "headrace.toml"
    file.write_text(file.read_text().replace("schedule.nightly", "schedule.weekly"))
    assert watch(load_settings(settings.root), failed(1)) == []


def test_the_alerts_are_over_when_no_schedule_is_left(settings: Settings) -> None:
    """No process runs schedules then."""
    (raised,) = watch(settings, failed(1))
    file = settings.root / "headrace.toml"
    file.write_text(file.read_text().removesuffix(SCHEDULES))
    without = load_settings(settings.root)
    with housekeeping(without):
        pass  # it looks once more when the block ends
    with Workspace(without) as workspace:
        assert open_alerts(workspace.log) == []
        follower = AlertFollower(workspace.log)
        *_, resolved = (record.value for record in follower.poll())
    assert (resolved.state, resolved.alert, resolved.why) == (
        "resolved",
        raised.alert,
        "it is not declared any more",
    )
