"""The scheduler with real builds: what is due runs once at a time, and how a run ended decides the next."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from tests.tiny import edit, write
from tests.until import until

from headrace import lake, log
from headrace.config.settings import Settings, load_settings
from headrace.flows.build import hold_build_lock
from headrace.flows.events.ingest import ingest
from headrace.flows.project.schedules import schedule_status
from headrace.kernel.time import now
from headrace.lake.table_state import rows_snapshot_ids
from headrace.projects.schedules import (
    ScheduleRun,
    ScheduleState,
    read_schedule_states,
    write_schedule_states,
)
from headrace.runtime.child import start_child
from headrace.runtime.scheduler import Scheduler
from headrace.workspace import Workspace

TABLES = """
from headrace import source, table

prices = source("prices", "data/prices.csv")

@table(reads=prices)
def doubled(prices):
    return prices

@table(reads=prices)
def other(prices):
    return prices
"""


def make(root: Path, schedules: str) -> Settings:
    write(root, TABLES)
    with (root / "headrace.toml").open("a") as file:
        file.write(schedules)
    return load_settings(root)


class Run:
    """A scheduler that runs until a condition holds."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.reports = settings, list[str]()
        self.scheduler = Scheduler(settings, lambda _: {}, self.reports.append)

    def runs(self, name: str) -> list[ScheduleRun]:
        return list(read_schedule_states(self.settings)[name].runs)

    def until(self, is_done: Callable[[], bool]) -> None:
        def check() -> bool:
            self.scheduler.check()
            return is_done()

        until(check)

    def outcomes(self, name: str) -> list[tuple[int, str | None]]:
        return [(run.attempt, run.outcome) for run in self.runs(name)]


def test_a_due_build_makes_its_targets_and_waits_for_its_next_time(tmp_path: Path) -> None:
    run = Run(make(tmp_path / "p", '[schedule.one]\nevery="1h"\nbuild=["doubled"]\n'))
    run.until(lambda: run.outcomes("one") == [(1, "succeeded")])
    tables = lake.open(run.settings)
    assert tables.table_exists("doubled")
    assert not tables.table_exists("other")
    run.scheduler.check()
    assert run.outcomes("one") == [(1, "succeeded")]
    (status,) = schedule_status(run.settings)
    assert status.due == run.runs("one")[0].started + timedelta(hours=1)
    assert run.reports == []


def test_a_failed_build_is_reported_and_tried_again_until_it_succeeds(tmp_path: Path) -> None:
    settings = make(tmp_path / "p", '[schedule.one]\nevery="1h"\nretry_delay="0s"\nretries=9\n')
    edit(
        tmp_path / "p", ("def other(prices):\n    return prices", "def other(prices):\n    return prices.gone")
    )
    run = Run(settings)
    run.until(lambda: run.outcomes("one")[:1] == [(1, "failed")])
    assert "the build of schedule one failed (exit" in run.reports[0]
    assert "attempt 2 of 10 is due at" in run.reports[0]
    assert "other" in (run.runs("one")[0].error or "")
    edit(tmp_path / "p", ("prices.gone", "prices"))
    run.until(lambda: run.outcomes("one")[-1][1] == "succeeded")
    run.scheduler.check()
    assert run.outcomes("one")[-1][1] == "succeeded"


def test_no_build_starts_while_one_runs_by_hand(tmp_path: Path) -> None:
    run = Run(make(tmp_path / "p", '[schedule.one]\nevery="1h"\n[schedule.two]\nevery="1h"\n'))
    with hold_build_lock(run.settings):
        run.scheduler.check()
        assert run.runs("one") == []
    run.until(lambda: run.outcomes("one") + run.outcomes("two") == [(1, "succeeded")] * 2)
    first, second = run.runs("one")[0], run.runs("two")[0]
    assert first.ended is not None
    assert first.ended <= second.started


def test_an_interrupted_run_is_due_again_when_the_next_scheduler_starts(tmp_path: Path) -> None:
    run = Run(make(tmp_path / "p", '[schedule.one]\nevery="1h"\n'))
    run.scheduler.check()
    assert run.outcomes("one") == [(1, None)]
    killed = read_schedule_states(run.settings)  # what a scheduler leaves that is killed now
    run.scheduler.end()
    assert run.outcomes("one") == [(1, "interrupted")]
    write_schedule_states(run.settings, killed)
    again = Run(run.settings)
    assert again.outcomes("one") == [(1, "interrupted")]
    again.until(lambda: again.outcomes("one") == [(1, "interrupted"), (1, "succeeded")])


def test_a_missed_time_is_made_up_for_by_one_run_unless_declared_otherwise(tmp_path: Path) -> None:
    hour = (now().hour + 12) % 24  # far from now
    block = f'[schedule.{{0}}]\ncron="0 {hour} * * *"\n{{1}}'
    settings = make(tmp_path / "p", block.format("missed", "") + block.format("skipped", "catch_up = false\n"))
    old = ScheduleState(f"cron 0 {hour} * * * UTC", now() - timedelta(days=5))
    write_schedule_states(settings, {"missed": old, "skipped": old})
    run = Run(settings)
    run.until(lambda: run.outcomes("missed") == [(1, "succeeded")])
    run.scheduler.check()
    missed, skipped = schedule_status(settings)
    assert len(missed.runs) == 1
    assert missed.due is not None
    assert missed.due > now()
    assert skipped.runs == ()


def test_a_catalog_that_cannot_be_read_is_reported_once_by_each_schedule(tmp_path: Path) -> None:
    settings = make(tmp_path / "p", '[schedule.one]\ntopics=["orders"]\n[schedule.two]\ntopics=["orders"]\n')
    catalog, reports = settings.place("lake", "catalog.db"), list[str]()
    catalog.parent.mkdir(parents=True)
    scheduler = Scheduler(
        settings, lambda topics: rows_snapshot_ids(lake.open(settings), topics), reports.append
    )
    for _ in range(2):
        reports.clear()
        catalog.write_text("no database, " * 1000)
        for _ in range(3):
            scheduler.check()
        starts = [report.partition(" cannot look for new events: ")[0] for report in reports]
        assert starts == ["schedule one", "schedule two"]
        catalog.unlink()  # without a catalog there are no events, which is no problem
        scheduler.check()
        assert len(reports) == 2


EVENTS = """
from datetime import datetime
from msgspec import Struct
from headrace import event, table

@event(topic="orders", time="at", identity="id")
class Order(Struct):
    id: int
    at: datetime

@table(reads=Order)
def ids(orders):
    return orders.select("id")
"""


def test_the_scheduler_of_up_builds_when_events_have_arrived_and_only_then(tmp_path: Path) -> None:
    root = write(tmp_path / "p", EVENTS)
    with (root / "headrace.toml").open("a") as file:
        file.write('[schedule.fresh]\nevery="1s"\ntopics=["orders"]\nbuild=["ids"]\n')
    settings = load_settings(root)
    child = start_child("scheduler", settings)
    try:
        child.await_ready()
        events = log.open(settings.log.url)
        events.create("orders")
        for wanted in (1, 2):
            events.append("orders", [b'{"id": %d, "at": "2026-01-01T00:00:00Z"}' % wanted])
            ingest(Workspace(settings), until_end=True)
            until(lambda wanted=wanted: outcomes(settings) == ["succeeded"] * wanted)
            assert lake.open(settings).table("ids").scan().collect().height == wanted
        started = read_schedule_states(settings)["fresh"].runs[-1].started
        until(lambda: now() > started + timedelta(seconds=3))  # long due, but without new events
        assert len(outcomes(settings)) == 2
    finally:
        child.terminate()
        child.end(time.monotonic() + 10)


def outcomes(settings: Settings) -> list[str | None]:
    return [run.outcome for run in read_schedule_states(settings)["fresh"].runs]
