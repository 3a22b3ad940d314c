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


def grown(settings: Settings) -> lake.Lake:
    """Two tables of ten small files each."""
    opened = lake.open(settings)
    for name in ("first", "second"):
        table = opened.ensure(name, pa.schema([("x", pa.int64())]))
        for n in range(10):
            table.append(pa.table({"x": [n]}))
    return opened


def test_a_round_keeps_every_table(tiny: Settings) -> None:
    opened = grown(tiny)
    done = maintain.maintain_tables(opened)
    assert {name: one.compacted for name, one in done.items()} == {"first": 10, "second": 10}
    for name in done:
        assert sorted(opened.table(name).scan().collect()["x"].to_list()) == list(range(10))


def test_of_two_rounds_at_once_each_table_is_kept_by_one(tiny: Settings) -> None:
    grown(tiny)
    with ThreadPoolExecutor(2) as threads:
        rounds = list(threads.map(lambda _: maintain.maintain_tables(lake.open(tiny)), range(2)))
    for name in ("first", "second"):
        assert sum(one[name].compacted for one in rounds) == 10


def test_a_round_that_is_stopped_begins_no_further_table(tiny: Settings) -> None:
    stop = threading.Event()
    stop.set()
    assert maintain.maintain_tables(grown(tiny), stop) == {}


def test_rounds_go_on_until_they_are_stopped(tiny: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    grown(tiny)
    monkeypatch.setattr(maintain, "FIRST", 0.0)
    kept = threading.Event()
    stop = threading.Event()
    thread = threading.Thread(target=maintain.run_maintenance, args=(tiny, stop))
    thread.start()
    table = lake.open(tiny).table("second")
    for _ in range(600):
        head = table.current_snapshot()
        if head is not None and head.summary.get(MAINTENANCE) == "compaction":
            kept.set()
            break
        stop.wait(0.1)
    stop.set()
    thread.join(30)
    assert kept.is_set()
    assert not thread.is_alive()
