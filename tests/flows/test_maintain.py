"""Maintenance of all tables of a project."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from headrace import lake
from headrace.config.settings import Settings
from headrace.flows.project import maintain
from headrace.kernel.properties import MAINTENANCE


def create_tables(settings: Settings) -> lake.Lake:
    """Two tables of ten small files each."""
    opened = lake.open(settings)
    for name in ("first", "second"):
        table = opened.ensure(name, pa.schema([("x", pa.int64())]))
        for n in range(10):
            table.append(pa.table({"x": [n]}))
    return opened


def test_round_maintains_every_table(tiny: Settings) -> None:
    opened = create_tables(tiny)
    reports = maintain.maintain_tables(opened)
    assert {name: report.compacted for name, report in reports.items()} == {"first": 10, "second": 10}
    for name in reports:
        assert sorted(opened.table(name).scan().collect()["x"].to_list()) == list(range(10))


def test_table_is_maintained_by_one_of_two_rounds(tiny: Settings) -> None:
    create_tables(tiny)
    with ThreadPoolExecutor(2) as threads:
        rounds = list(threads.map(lambda _: maintain.maintain_tables(lake.open(tiny)), range(2)))
    for name in ("first", "second"):
        assert sum(reports[name].compacted for reports in rounds) == 10


def test_stopped_round_maintains_no_further_table(tiny: Settings) -> None:
    stop = threading.Event()
    stop.set()
    assert maintain.maintain_tables(create_tables(tiny), stop) == {}


def test_rounds_repeat_until_stopped(tiny: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    create_tables(tiny)
    monkeypatch.setattr(maintain, "FIRST", 0.0)
    maintained = threading.Event()
    stop = threading.Event()
    thread = threading.Thread(target=maintain.run_maintenance, args=(tiny, stop))
    thread.start()
    table = lake.open(tiny).table("second")
    for _ in range(600):
        head = table.current_snapshot()
        if head is not None and head.summary.get(MAINTENANCE) == "compaction":
            maintained.set()
            break
        stop.wait(0.1)
    stop.set()
    thread.join(30)
    assert maintained.is_set()
    assert not thread.is_alive()
