"""The build schedule: a build in a child process each time the interval has passed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from tests.tiny import write
from tests.until import until

from headrace import lake
from headrace.config.settings import load_settings
from headrace.runtime.schedule import BuildSchedule

TABLES = """
from headrace import source, table

prices = source("prices", "data/prices.csv")

@table(reads=prices)
def doubled(prices):
    return {body}
"""


def run_builds(root: Path, reports: list[str], done: Callable[[], bool]) -> None:
    schedule = BuildSchedule(load_settings(root), timedelta(0), reports.append)

    def look() -> bool:
        schedule.check()
        return done()

    try:
        until(look, seconds=120)
    finally:
        schedule.end()


def test_a_build_that_is_due_makes_the_tables(tmp_path: Path) -> None:
    root = write(tmp_path / "project", TABLES.format(body="prices"))
    reports: list[str] = []
    run_builds(root, reports, lambda: (root / "pointers/tables/doubled.json").is_file())
    assert lake.open(load_settings(root)).table_exists("doubled")
    assert reports == []


def test_a_build_that_fails_is_reported_with_its_error(tmp_path: Path) -> None:
    root = write(tmp_path / "project", TABLES.format(body="prices.select('nowhere')"))
    reports: list[str] = []
    run_builds(root, reports, lambda: bool(reports))
    assert "the build failed (exit" in reports[0]
    assert "build.log" in reports[0]
