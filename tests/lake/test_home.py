"""A lake whose folder was moved or copied, and folders with any name."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from tests.lake.folder import missing_files

from headrace import lake
from headrace.config.settings import Settings, make_settings
from headrace.declare.partitioning import number_of
from headrace.kernel.errors import CallError, ProjectError
from headrace.lake import LakeTable
from headrace.lake.table_state import current_snapshot_ids

AT_ONCE = timedelta(microseconds=-1)
STAMP = pa.timestamp("us", "UTC")
OPEN = """
import sys
from pathlib import Path
from headrace import lake
from headrace.config.settings import Settings, make_settings
root = Path(sys.argv[1])
lake.open(make_settings(root, "shop", state=root / ".headrace" / "local"))
"""


def settings_in(root: Path, **values: str) -> Settings:
    return make_settings(root, "shop", values=values)


def rows(day: int, x: int) -> pa.Table:
    return pa.table(
        {"at": pa.array([datetime(2024, 1, day, 12, tzinfo=UTC)], STAMP), "x": pa.array([x], pa.int64())}
    )


def write_table(settings: Settings, name: str = "events") -> LakeTable:
    """A table of several snapshots, one pinned, with a compaction and a replaced day."""
    table = lake.open(settings).ensure(name, rows(1, 0).schema, [("at", "day")])
    pinned = table.append(rows(1, 0))
    table.create_tag("early", pinned.id)
    for x in range(1, 10):
        table.append(rows(1, x))
    lake.maintain(table)
    table.overwrite(rows(2, 10), partitions=(("at", "day"), [number_of("day", date(2024, 1, 2))]))
    return table


def rows_by_snapshot(settings: Settings, name: str = "events") -> dict[int, list[int]]:
    table = lake.open(settings).table(name)
    return {s.id: sorted(table.scan(s.id).collect()["x"].to_list()) for s in table.snapshots()}


def file_states(root: Path) -> dict[str, tuple[int, str]]:
    """Path → (time of its last change, hash of its content)."""
    return {
        str(path.relative_to(root)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in [root, *root.rglob("*")]
    }


def metadata_paths(table: LakeTable) -> set[str]:
    """Every path in the metadata of the table."""
    iceberg = table.iceberg()
    named = {iceberg.location(), iceberg.metadata_location}
    named |= {entry.metadata_file for entry in iceberg.metadata.metadata_log}
    for snapshot in iceberg.snapshots():
        named.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(iceberg.io):
            named.add(manifest.manifest_path)
            assert manifest.manifest_length == Path(manifest.manifest_path).stat().st_size
            named |= {
                e.data_file.file_path for e in manifest.fetch_manifest_entry(iceberg.io, discard_deleted=False)
            }
    return named


def test_moved_lake_is_read_and_written_in_its_new_folder(tmp_path: Path) -> None:
    before, after = settings_in(tmp_path / "before"), settings_in(tmp_path / "deeper" / "after")
    write_table(before)
    expected = rows_by_snapshot(before)
    head = current_snapshot_ids(lake.open(before), ["events"])
    after.root.parent.mkdir()
    before.root.rename(after.root)

    assert current_snapshot_ids(lake.open(after), ["events"]) == head
    assert rows_by_snapshot(after) == expected
    table = lake.open(after).table("events")
    assert all(path.startswith(f"{after.state}/lake/warehouse/shop/events") for path in metadata_paths(table))
    assert pl.scan_iceberg(table.iceberg().metadata_location).collect().height == 11
    table.append(rows(3, 11))
    lake.maintain(table, older_than=AT_ONCE, grace=AT_ONCE, longest_write=AT_ONCE)
    assert missing_files(table) == set()
    assert rows_by_snapshot(after)[table.tags()["early"]] == [0]
    assert not before.root.exists()


def test_copy_becomes_a_separate_lake_and_leaves_the_original_unchanged(tmp_path: Path) -> None:
    original, copy = settings_in(tmp_path / "original"), settings_in(tmp_path / "original" / "copy")
    write_table(original)
    expected = rows_by_snapshot(original)
    shutil.copytree(original.state, copy.state)
    before = file_states(original.state)

    table = lake.open(copy).table("events")
    table.overwrite(rows(1, 99))
    for _ in range(2):  # the first lists unreferenced files, the second deletes them
        lake.maintain(table, older_than=AT_ONCE, grace=AT_ONCE, longest_write=AT_ONCE)
    assert all(path.startswith(f"{copy.state}/") for path in metadata_paths(table))
    assert file_states(original.state) == before

    table = lake.open(original).table("events")
    table.append(rows(4, 12))
    for _ in range(2):
        lake.maintain(table, older_than=AT_ONCE, grace=AT_ONCE, longest_write=AT_ONCE)
    assert missing_files(lake.open(copy).table("events")) == set()
    assert sorted(table.scan().collect()["x"].to_list()) == [*range(11), 12]
    assert expected[table.tags()["early"]] == rows_by_snapshot(original)[table.tags()["early"]]


@pytest.mark.parametrize("point", ["lake.home_snapshot:1", "lake.home_snapshot:7", "lake.home_rewritten:1"])
def test_killed_rewrite_resumes_after_another_move(tmp_path: Path, point: str) -> None:
    first, second, third = (settings_in(tmp_path / name) for name in ("first", "second", "third"))
    write_table(first)
    write_table(first, "others")
    expected = rows_by_snapshot(first), rows_by_snapshot(first, "others")
    first.root.rename(second.root)
    killed = subprocess.run(
        [sys.executable, "-c", OPEN, str(second.root)],
        env={**os.environ, "HEADRACE_FAULT": point},
        timeout=300,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    second.root.rename(third.root)

    assert (rows_by_snapshot(third), rows_by_snapshot(third, "others")) == expected
    for name in ("events", "others"):
        assert all(path.startswith(f"{third.state}/") for path in metadata_paths(lake.open(third).table(name)))


def test_commit_during_the_rewrite_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.lake import home

    before, after = settings_in(tmp_path / "before"), settings_in(tmp_path / "after")
    table = write_table(before)
    before.root.rename(after.root)
    before.root.symlink_to(after.root)  # a process still writes by the old path
    calls = []

    def reach(point: str) -> None:
        if point == "lake.home_rewritten" and not calls:
            calls.append(point)
            table.append(rows(5, 77))

    monkeypatch.setattr(home, "reach", reach)
    monkeypatch.setattr(home, "_is_same", lambda folder, other: folder == other)
    assert 77 in lake.open(after).table("events").scan().collect()["x"].to_list()
    assert calls
    assert all(path.startswith(f"{after.state}/") for path in metadata_paths(lake.open(after).table("events")))


def test_lake_opened_by_a_symbolic_link_is_the_same(tmp_path: Path) -> None:
    real, link = settings_in(tmp_path / "real"), settings_in(tmp_path / "link")
    write_table(real)
    expected = rows_by_snapshot(real)
    link.root.symlink_to(real.root)
    assert rows_by_snapshot(link) == expected
    table = lake.open(link).table("events")
    table.append(rows(6, 13))
    write_table(link, "more")
    lake.maintain(lake.open(link).table("more"))
    assert all(
        path.startswith(f"{real.state}/")
        for name in ("events", "more")
        for path in metadata_paths(lake.open(real).table(name))
    )


def test_copy_that_shares_outside_files_with_the_original_is_refused(tmp_path: Path) -> None:
    shared = str(tmp_path / "shared")
    original, copy = (settings_in(tmp_path / name, warehouse=shared) for name in ("original", "copy"))
    write_table(original)
    expected = rows_by_snapshot(original)
    shutil.copytree(original.root, copy.root)
    with pytest.raises(ProjectError, match="is a copy of the lake in") as refused:
        lake.open(copy)
    assert "events" in str(refused.value)
    shutil.rmtree(copy.root)
    original.root.rename(copy.root)  # after the move, no copy shares the files
    assert rows_by_snapshot(copy) == expected


def test_maintenance_deletes_nothing_outside_the_warehouse(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "project")
    table = write_table(settings)
    before = file_states(settings.place("lake", "warehouse"))
    elsewhere = settings.with_values(warehouse=str(tmp_path / "elsewhere"))
    with pytest.raises(CallError, match="outside the warehouse"):
        lake.maintain(
            lake.open(elsewhere).table("events"), older_than=AT_ONCE, grace=AT_ONCE, longest_write=AT_ONCE
        )
    assert file_states(settings.place("lake", "warehouse")) == before
    assert not lake.maintain(table).busy  # no lease was left


@pytest.mark.parametrize(
    "name",
    [
        "h#1",
        "q?x",
        "p%20q",
        "%41",
        "%",
        "br[a]",
        "{{x}}",
        "a b",
        "ü",
        "\U0001f600",
        "'\"",
        "a*b",
        "a:b;c&d",
        "$HOME",
    ],
)
def test_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    settings = settings_in(tmp_path / name)
    table = write_table(settings)
    expected = rows_by_snapshot(settings)
    head = table.current_snapshot()
    assert head is not None
    assert current_snapshot_ids(lake.open(settings), ["events"]) == {"events": head.id}
    assert pl.scan_iceberg(table.iceberg().metadata_location).collect().height == 11
    lake.open(settings).check_warehouse(settings.lake.warehouse_url)
    lake.maintain(table, older_than=AT_ONCE, grace=AT_ONCE, longest_write=AT_ONCE)
    assert missing_files(table) == set()
    settings.root.rename(tmp_path / f"moved {name}")
    moved = settings_in(tmp_path / f"moved {name}")
    assert rows_by_snapshot(moved).items() <= expected.items()
    assert [path.name for path in tmp_path.iterdir()] == [f"moved {name}"]
