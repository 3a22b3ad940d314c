"""The scheduler sees new rows of topics, and leaves the catalog alone while the log has nothing new."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny import forget, write

from headrace.config.settings import load_settings
from headrace.flows.events.ingest import ingest
from headrace.lake.table_state import rows_snapshot_ids
from headrace.runtime import topic_tables
from headrace.runtime.topic_tables import TopicTables
from headrace.workspace import Workspace

EVENTS = """
from datetime import datetime
from headrace import Struct, event

@event(topic="new-orders", time="at", identity="id")
class Order(Struct):
    id: int
    at: datetime
"""


def test_the_catalog_is_read_only_when_the_log_has_more_than_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(write(tmp_path / "p", EVENTS))
    readings: list[list[str]] = []
    read = topic_tables.read_table_states

    def count(lake: object, tables: list[str]) -> object:
        readings.append(tables)
        return read(lake, tables)  # type: ignore[arg-type]

    monkeypatch.setattr(topic_tables, "read_table_states", count)
    with Workspace(settings) as workspace:
        tables = TopicTables(workspace.log, workspace.lake, {"new-orders": "new_orders"})

        def look() -> int | None:
            snapshots = tables.read_snapshots(["new-orders"])
            assert snapshots == rows_snapshot_ids(workspace.lake, ["new_orders"])
            return snapshots["new_orders"]

        assert look() is None  # no topic, no table
        workspace.log.create("new-orders")
        workspace.log.append("new-orders", [b'{"id": 1, "at": "2026-01-01T00:00:00Z"}'])
        assert look() is None  # not ingested
        ingest(workspace, until_end=True)
        first = look()
        assert first is not None
        readings.clear()
        assert [look() for _ in range(5)] == [first] * 5
        assert readings == []
        workspace.log.append("new-orders", [b'{"id": 2, "at": "2026-01-01T00:00:00Z"}'])
        assert look() == first  # on the log, not in the table
        assert readings == [["new_orders"]]
        ingest(workspace, until_end=True)
        assert look() != first
        assert len(readings) == 2
        monkeypatch.setattr(topic_tables, "_LONGEST", 0)  # a table can change without its topic
        look()
        assert len(readings) == 3
    forget()
