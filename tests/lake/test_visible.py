"""The record of what readers see, on both catalogs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from shutil import copytree

import pyarrow as pa
import pytest
from tests.flows.builds import call
from tests.flows.conftest import TABLES
from tests.tiny import write
from tests.until import until

import headrace
from headrace import lake as lakes
from headrace.config.settings import Settings, load_settings
from headrace.kernel.errors import CallError, Conflict
from headrace.kernel.properties import CODE
from headrace.lake import Lake, VisibleTables, maintain
from headrace.lake.table_state import read_table_states
from headrace.lake.visible import (
    TABLE,
    VisibleRecord,
    keep_snapshots,
    read_record,
    release_snapshots,
    write_record,
)


def write_rows(lake: Lake, name: str, value: int) -> int:
    """The snapshot of a table, as a build makes it, that has this one value."""
    rows = pa.table({"value": [value]})
    return lake.ensure(name, rows.schema).overwrite(rows, properties={CODE: "code"}).id


def values(tables: VisibleTables, *names: str) -> list[int]:
    return [tables.scan(name).collect()["value"].item() for name in names]


def test_readers_resolve_the_record(shop_lake: Lake) -> None:
    first = {name: write_rows(shop_lake, name, 1) for name in ("users", "facts")}
    assert values(VisibleTables(shop_lake), "users", "facts") == [1, 1]  # there is no record
    record = VisibleRecord(first)
    keep_snapshots(shop_lake, first)
    write_record(shop_lake, record, None)
    second = {name: write_rows(shop_lake, name, 2) for name in ("users", "facts", "new")}
    reader = VisibleTables(shop_lake)
    assert values(reader, "users", "facts") == [1, 1]
    with pytest.raises(CallError, match="'new' is not visible yet"):
        reader.scan("new")
    keep_snapshots(shop_lake, second)
    write_record(shop_lake, VisibleRecord(second), record)
    release_snapshots(shop_lake, second)
    assert values(reader, "users", "facts") == [1, 1]  # it keeps the record that it began with
    assert values(VisibleTables(shop_lake), "users", "facts", "new") == [2, 2, 2]


def test_compacted_rows_are_read_in_their_newest_files(shop_lake: Lake) -> None:
    visible = write_rows(shop_lake, "facts", 0)
    table = shop_lake.table("facts")
    for value in range(1, 8):
        visible = table.append(pa.table({"value": [value]})).id
    keep_snapshots(shop_lake, {"facts": visible})
    write_record(shop_lake, VisibleRecord({"facts": visible}), None)
    assert maintain(table).compacted == 8
    compacted = table.current_snapshot()
    assert compacted is not None
    assert compacted.id != visible
    reader = VisibleTables(shop_lake)
    assert reader.snapshot("facts") == compacted
    newest = read_table_states(shop_lake)
    newest.pop(TABLE)
    assert reader.states(newest) == (newest, {})
    table.append(pa.table({"value": [8]}))  # other rows: readers stay on those of the record
    assert sorted(VisibleTables(shop_lake).scan("facts").collect()["value"]) == list(range(8))


def test_a_record_is_written_on_the_condition_that_nobody_else_has(settings: Settings) -> None:
    """Each of several writers adds its own table many times, and repeats what conflicts: none is lost."""

    def add(name: str) -> None:
        own = lakes.open(settings)
        for number in range(1, 4):
            while True:
                before = read_record(own)
                tables = {} if before is None else before.tables
                try:
                    write_record(own, VisibleRecord({**tables, name: number}), before)
                except Conflict:
                    continue
                break

    writers = [threading.Thread(target=add, args=[name]) for name in ("a", "b", "c")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lake = lakes.open(settings)
    assert read_record(lake) == VisibleRecord({"a": 3, "b": 3, "c": 3})
    with pytest.raises(Conflict):
        write_record(lake, VisibleRecord(), VisibleRecord({"a": 2}))
    with pytest.raises(Conflict):
        write_record(lake, VisibleRecord(), None)


def test_of_two_builds_at_once_readers_see_one(remote: Settings, tmp_path: Path) -> None:
    """Two checkouts of a project on one catalog. The first build is suspended before it writes the record."""
    first = write(tmp_path / "first", TABLES)
    values = "".join(f"{name} = {json.dumps(value)}\n" for name, value in remote.values.items())
    text = f'[project]\nname = "tiny"\n[profile.local]\n{values}'
    (first / "headrace.toml").write_text(text)
    assert call(load_settings(first), "build").returncode == 0
    second = copytree(first, tmp_path / "second")
    (first / "data" / "prices.csv").write_text("price\n10\n")
    (second / "data" / "prices.csv").write_text("price\n100\n")

    def seen() -> list[int]:
        doubled, total = headrace.project(first).tables("doubled", "total")
        return [doubled.to_polars()["price"].sum(), total.to_polars()["price"].item()]

    suspended = subprocess.Popen(
        [sys.executable, "-m", "headrace.cli.main", "build"],
        cwd=first,
        env={**os.environ, "HEADRACE_FAULT": "build.before_visible:1:STOP"},
    )
    try:
        stat = Path(f"/proc/{suspended.pid}/stat")
        until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        assert seen() == [6, 6]
        assert call(load_settings(second), "build").returncode == 0
        assert seen() == [200, 200]
    finally:
        suspended.send_signal(signal.SIGCONT)
        assert suspended.wait(timeout=300) == 0
    assert seen() == [200, 200]
