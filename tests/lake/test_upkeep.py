"""Upkeep: what it takes away, and what it must never."""

import fcntl
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from headrace import lake
from headrace.config.settings import Settings
from headrace.lake import Lake, LakeTable, expiry

AT_ONCE = timedelta(microseconds=-1)
STAMP = pa.timestamp("us", "UTC")


def rows(day: int, x: int = 0) -> pa.Table:
    return pa.table(
        {"at": pa.array([datetime(2024, 1, day, 12, tzinfo=UTC)], STAMP), "x": pa.array([x], pa.int64())}
    )


@pytest.fixture
def table(opened: Lake) -> LakeTable:
    return opened.ensure("kept", pa.schema([("at", STAMP), ("x", pa.int64())]), [("at", "day")])


def values(table: LakeTable, snapshot: int | None = None) -> list[int]:
    return sorted(table.scan(snapshot).collect()["x"].to_list())


class TestCompaction:
    def test_keeps_the_rows_and_the_facts(self, table: LakeTable) -> None:
        for n in range(10):
            table.append(rows(1, n), facts={"headrace.arrived_at": str(n)})
        table.append(rows(2, 99), facts={"headrace.arrived_at": "10"})
        assert lake.keep(table).compacted == 10
        assert values(table) == [*range(10), 99]
        head = table.head()
        assert head is not None
        assert (head.summary["total-data-files"], head.summary["headrace.arrived_at"]) == ("2", "10")

    def test_changes_no_day(self, table: LakeTable) -> None:
        for n in range(10):
            seen = table.append(rows(1 + n % 2, n))
        lake.keep(table, small=0)
        assert lake.keep(table).compacted == 0  # five a day are not worth it
        for n in range(10):
            seen = table.append(rows(1 + n % 2, n))
        assert lake.keep(table).compacted == 20
        head = table.head()
        assert head is not None
        assert table.days_changed("at", seen.id, head.id) == set()

    def test_hides_no_newer_rows(self, table: LakeTable) -> None:
        for n in range(8):
            table.append(rows(1, n))
        seen = table.append(rows(2))
        table.append(rows(1, 50))
        assert lake.keep(table).compacted == 9
        head = table.head()
        assert head is not None
        assert table.days_changed("at", seen.id, head.id) == {date(2024, 1, 1)}

    def test_hides_no_lost_day(self, table: LakeTable) -> None:
        for n in range(8):
            table.append(rows(1, n))
            seen = table.append(rows(2, n))
        table.replace(rows(1).slice(0, 0), days=("at", [date(2024, 1, 2)]))
        lake.keep(table)
        head = table.head()
        assert head is not None
        assert table.days_changed("at", seen.id, head.id) == {date(2024, 1, 2)}

    def test_of_evolved_columns(self, opened: Lake, table: LakeTable) -> None:
        for n in range(8):
            table.append(rows(1, n))
        opened.ensure("kept", pa.schema([("more", pa.string())]))
        table.append(rows(1, 8).append_column("more", pa.array(["m"])))
        assert lake.keep(table).compacted == 9
        assert table.scan().sort("x").collect()["more"].to_list() == [None] * 8 + ["m"]


class TestExpiry:
    def test_spares_the_head_and_the_pinned(self, table: LakeTable) -> None:
        made = [table.append(rows(1, n)) for n in range(5)]
        table.pin("kept", made[1].id)
        assert lake.keep(table, older_than=AT_ONCE).expired == 3
        assert [s.id for s in table.history()] == [made[1].id, made[4].id]
        table.unpin("kept")
        assert lake.keep(table, older_than=AT_ONCE).expired == 1

    def test_spares_the_young(self, table: LakeTable) -> None:
        for n in range(5):
            table.append(rows(1, n))
        assert lake.keep(table).expired == 0

    def test_gives_way_to_a_pin_set_after_it_looked(
        self, table: LakeTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = table.append(rows(1))
        table.append(rows(1))
        monkeypatch.setattr(expiry, "reach", lambda point: table.pin("late", first.id))
        assert lake.keep(table, older_than=AT_ONCE).expired == 0
        assert table.snapshot("late").id == first.id

    def test_goes_on_beside_commits(self, table: LakeTable) -> None:
        first = table.append(rows(1))
        table.pin("first", first.id)
        for n in range(expiry.NEWEST + 40):
            table.append(rows(1, n))
        history = table.history()
        assert len(history) <= expiry.NEWEST + 22
        assert history[0].id == first.id
        head = table.head()
        assert head is not None
        assert table.days_changed("at", first.id, head.id) == {date(2024, 1, 1)}


class TestUnreferenced:
    def test_files_go_after_the_grace_and_no_others(self, settings: Settings, table: LakeTable) -> None:
        pinned = table.append(rows(1, 1))
        table.pin("kept", pinned.id)
        for n in range(12):
            table.append(rows(2, n))
        stray = next(settings.place("lake", "warehouse").rglob("kept/data")) / "stray.parquet"
        stray.write_bytes(b"left by a writer that was killed")
        assert lake.keep(table, older_than=AT_ONCE).deleted == 0
        assert stray.exists()
        assert lake.keep(table, older_than=AT_ONCE, grace=AT_ONCE).deleted > 12
        assert not stray.exists()
        assert values(table, pinned.id) == [1]
        assert values(table) == sorted([1, *range(12)])
        table.append(rows(3, 77))
        assert values(table)[-1] == 77


def test_only_one_at_a_time(settings: Settings, table: LakeTable) -> None:
    table.append(rows(1))
    path = settings.place("lake", "upkeep-kept.lock")
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert lake.keep(table).busy
    assert not lake.keep(table).busy
