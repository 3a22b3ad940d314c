"""Concurrent writers of one table, and writers that die amid a write."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from tests.wal_locks import hold_wal_locks

from headrace import lake
from headrace.config.settings import Settings, make_settings
from headrace.kernel.errors import Unavailable
from headrace.kernel.position import LogPosition
from headrace.lake import LakeTable

START = LogPosition("events", "id-1")

# Appends `count` batches of two rows (their log partition and offset) from the position of the table.
WRITER = """
import json, sys
import pyarrow as pa
from pathlib import Path
from headrace import lake
from headrace.config.settings import Settings, make_settings
from headrace.kernel.errors import Conflict
from headrace.kernel.position import LogPosition

root, partition, upto = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
table = lake.open(make_settings(root, "shop", state=root / "state")).table("events")
print("ready", flush=True)
sys.stdin.readline()
conflicts = 0
while True:
    position = table.position("ingest") or LogPosition("events", "id-1")
    offset = position.next_offset(partition)
    if offset >= upto:
        break
    pair = {"p": [partition] * 2, "o": [offset, offset + 1]}
    rows = pa.table(pair, schema=pa.schema([("p", pa.int32()), ("o", pa.int64())]))
    try:
        table.append(rows, position=("ingest", position, position.with_offsets({partition: offset + 2})))
    except Conflict:
        conflicts += 1
print(json.dumps(conflicts), flush=True)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path, "shop", state=tmp_path / "state")


@pytest.fixture
def table(settings: Settings) -> LakeTable:
    return lake.open(settings).ensure("events", pa.schema([("p", pa.int32()), ("o", pa.int64())]))


def start(
    settings: Settings, partition: int, upto: int, extra: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(settings.root), str(partition), str(upto)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(extra or {})},
    )


def run_together(*writers: subprocess.Popen[str]) -> list[int]:
    """Starts the writers at the same time; returns the conflicts of each."""
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    outputs = [writer.communicate(timeout=300)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * len(writers)
    return [json.loads(output) for output in outputs]


def rows_in(table: LakeTable) -> list[tuple[int, int]]:
    return sorted(table.scan().collect().rows())


def all_rows(partitions: int, upto: int) -> list[tuple[int, int]]:
    return [(p, o) for p in range(partitions) for o in range(upto)]


def test_writers_of_different_log_partitions_do_not_conflict(settings: Settings, table: LakeTable) -> None:
    conflicts = run_together(start(settings, 0, 20), start(settings, 1, 20))
    assert conflicts == [0, 0]
    assert rows_in(table) == all_rows(2, 20)
    assert table.position("ingest") == START.with_offsets({0: 20, 1: 20})


def test_writers_of_the_same_log_partition_write_each_row_once(settings: Settings, table: LakeTable) -> None:
    run_together(start(settings, 0, 30), start(settings, 0, 30))
    assert rows_in(table) == all_rows(1, 30)
    files = list(settings.place("lake", "warehouse").rglob("data/*.parquet"))
    assert len(files) == 15  # a writer deletes the file of a commit that was refused


@pytest.mark.parametrize(
    ("point", "committed_rows"),
    [
        ("lake.before_data_file", 4),
        ("lake.after_data_file", 4),
        ("lake.before_commit", 4),
        ("lake.after_commit", 6),
    ],
)
def test_killed_writer_commits_all_or_nothing(
    settings: Settings, table: LakeTable, point: str, committed_rows: int
) -> None:
    killed = start(settings, 0, 10, {"HEADRACE_FAULT": f"{point}:3"})
    killed.communicate("go\n", timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert rows_in(table) == all_rows(1, committed_rows)
    assert table.position("ingest") == START.with_offsets({0: committed_rows})
    begin = START.with_offsets({0: committed_rows})
    rest = pa.table({"p": [0] * (10 - committed_rows), "o": range(committed_rows, 10)})
    table.append(rest, position=("ingest", begin, begin.with_offsets({0: 10})))
    assert rows_in(table) == all_rows(1, 10)


def test_reader_of_an_old_snapshot_finishes_during_overwrite_and_maintenance(table: LakeTable) -> None:
    rows = pa.table({"p": pa.array([0] * 3, pa.int32()), "o": pa.array([1, 2, 3], pa.int64())})
    reading = table.scan(table.append(rows).id)
    for _ in range(3):
        table.overwrite(rows.slice(0, 1))
        lake.maintain(table)
    assert reading.collect().height == 3
    assert table.scan().collect().height == 1


def test_locked_catalog_is_reported(
    settings: Settings, table: LakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settings.place("lake", "catalog.db")
    monkeypatch.setattr("headrace.lake.catalog.BUSY_SECONDS", 0.2)
    other = lake.open(settings).table("events")
    with sqlite3.connect(path) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked by another process"):
            other.append(pa.table({"o": pa.array([1], pa.int64())}))
        holder.rollback()
    assert rows_in(table) == []


def test_catalog_locked_by_a_stopped_process_is_reported(settings: Settings, table: LakeTable) -> None:
    path = settings.place("lake", "catalog.db")
    other = lake.open(settings).table("events")
    with sqlite3.connect(path) as user:
        user.execute("SELECT 1 FROM iceberg_tables").fetchall()
        with hold_wal_locks(path), pytest.raises(Unavailable, match="locked by another process"):
            other.append(pa.table({"o": pa.array([1], pa.int64())}))
    user.close()
    assert rows_in(table) == []


def test_commit_whose_answer_is_lost_succeeds(table: LakeTable, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pa.table({"o": pa.array([1], pa.int64())})
    commit_table = type(table.catalog).commit_table

    def lose_answer(*args: object) -> None:
        commit_table(*args)
        raise ConnectionResetError("the answer was lost")

    monkeypatch.setattr(type(table.catalog), "commit_table", lose_answer)
    snapshot = table.append(rows, position=("ingest", None, START.with_offsets({0: 1})))
    assert table.current_snapshot() == snapshot
    assert table.scan().collect().height == 1


def test_new_lake_opens_for_many_processes_at_once(tmp_path: Path) -> None:
    schema = pa.schema([("p", pa.int32())])

    def open_lake(number: int) -> str:
        settings = make_settings(tmp_path, "shop", state=tmp_path / f"state{number // 8}")
        return lake.open(settings).ensure("events", schema).name

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(open_lake, range(40))) == ["events"] * 40
