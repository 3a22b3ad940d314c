"""The blocks `[schedule.NAME]` of headrace.toml: what they mean, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headrace.config.schedules import Schedule
from headrace.config.settings import load_settings
from headrace.kernel.errors import ProjectError


def load(root: Path, text: str, profile: str | None = None) -> tuple[Schedule, ...]:
    (root / "headrace.toml").write_text(f'[project]\nname = "tiny"\n[profile.prod]\n{text}')
    return load_settings(root, profile).schedules


def test_a_block_has_defaults(tmp_path: Path) -> None:
    (schedule,) = load(tmp_path, '[schedule.often]\nevery = "90s"\n')
    assert schedule == Schedule(
        "often", timedelta(seconds=90), None, "UTC", (), (), True, 2, timedelta(minutes=1)
    )
    assert schedule.trigger == "every 1m30s"


def test_topics_alone_are_looked_at_every_minute(tmp_path: Path) -> None:
    (schedule,) = load(tmp_path, '[schedule.fresh]\ntopics = ["orders"]\n')
    assert schedule.trigger == "every 1m, on new events of orders"


def test_a_schedule_may_belong_to_one_profile(tmp_path: Path) -> None:
    text = '[schedule.a]\nevery="1h"\nprofiles=["prod"]\n[schedule.b]\ncron="0 4 * * *"\n'
    assert [schedule.name for schedule in load(tmp_path, text)] == ["b"]
    assert [schedule.name for schedule in load(tmp_path, text, "prod")] == ["a", "b"]


def test_schedules_stay_with_settings_that_change(tmp_path: Path) -> None:
    schedules = load(tmp_path, '[schedule.a]\nevery="1h"\n')
    settings = load_settings(tmp_path)
    assert settings.with_values(predict_port=0).schedules == schedules
    assert settings.with_state(tmp_path / "elsewhere").schedules == schedules


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("[schedule]\nevery = '1h'", "'every' is not the block of a schedule"),
        ("[schedule.'A b']\nevery = '1h'", "'A b' is not a valid schedule name"),
        ("[schedule.a]", "it needs every or cron or topics"),
        ("[schedule.a]\nevery='1h'\ncron='0 4 * * *'", "not every and cron"),
        ("[schedule.a]\nevery='soon'", "'soon' is not a valid duration"),
        ("[schedule.a]\nevery='0s'", "every must be a duration of 1s to 366d"),
        ("[schedule.a]\nevery=60", "Expected `str | null`, got `int`"),
        ("[schedule.a]\nevery='1h'\nretries=11", "retries must be a number from 0 to 10"),
        ("[schedule.a]\nevery='1h'\nretry_delay='2d'", "retry_delay must be a duration of 0s to 1d"),
        ("[schedule.a]\nevery='1h'\ntimezone='Europe/Berlin'", "timezone belongs to cron"),
        ("[schedule.a]\nevery='1h'\ncatch_up=false", "catch_up belongs to cron"),
        ("[schedule.a]\ncron='0 4 * *'", "'0 4 * *' is not a valid cron expression"),
        ("[schedule.a]\ncron='* 0 4 * * *'", "is not a valid cron expression"),
        ("[schedule.a]\ncron='0 25 * * *'", "Bad hour"),
        ("[schedule.a]\ncron='0 4 30 2 *'", "Bad day-of-month"),
        ("[schedule.a]\ncron='0 4 * * *'\ntimezone='Mars/Base'", "time zone 'Mars/Base' does not exist"),
        ("[schedule.a]\nevery='1h'\nprofiles=['porto']", "profile 'porto' does not exist"),
        ("[schedule.a]\nevery='1h'\nonly='x'", "unknown field `only`"),
    ],
)
def test_a_wrong_block_is_refused_with_its_place(tmp_path: Path, block: str, message: str) -> None:
    with pytest.raises(ProjectError) as refused:
        load(tmp_path, block + "\n")
    assert message in str(refused.value)
    assert "headrace.toml: schedule" in str(refused.value)


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        ("0 4 * * *", "2026-03-01T03:00", "2026-03-02T03:00"),  # 04:00 in Berlin is 03:00 UTC: already over
        ("30 2 * * *", "2026-03-28T12:00", "2026-03-29T01:00"),  # 02:30 does not exist: run at 03:00
        ("30 2 * * *", "2026-10-24T12:00", "2026-10-25T00:30"),  # 02:30 comes twice: run the first time
        ("30 2 * * *", "2026-10-25T00:30", "2026-10-26T01:30"),  # and not the second time
        ("0 0 1 * *", "2026-01-31T23:30", "2026-02-28T23:00"),
    ],
)
def test_cron_follows_the_clock_of_its_time_zone(tmp_path: Path, cron: str, after: str, expected: str) -> None:
    (schedule,) = load(tmp_path, f"[schedule.a]\ncron='{cron}'\ntimezone='Europe/Berlin'\n")
    due = schedule.next_cron(datetime.fromisoformat(after).replace(tzinfo=UTC))
    assert due == datetime.fromisoformat(expected).replace(tzinfo=UTC)
