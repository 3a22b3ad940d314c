"""The record of what readers see, on both catalogs."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest

from headrace import lake as lakes
from headrace.config.settings import Settings
from headrace.kernel.errors import CallError, Conflict
from headrace.kernel.properties import CODE
from headrace.lake import Lake, VisibleTables
from headrace.lake.visible import VisibleRecord, keep_snapshots, read_record, release_snapshots, write_record


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
