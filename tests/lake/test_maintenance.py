"""Maintenance: what it removes, and what it must never remove."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.lake.folder import files, missing_files, write_file

from headrace import lake
from headrace.config.settings import Settings
from headrace.declare.partitioning import number_of
from headrace.kernel.errors import CallError, Conflict, Unavailable
from headrace.kernel.properties import LATEST_ARRIVAL, ORPHANS_REMOVED
from headrace.kernel.time import now_micros
from headrace.lake import Lake, LakeTable, commit, compaction, expiry, lease, maintenance, orphan_files
from headrace.lake import files as lake_files
from headrace.lake.files import APPENDED, WrittenFile, conform, write_files
from headrace.lake.lease import Lease
from headrace.lake.pyiceberg_internals import read_files
from headrace.lake.table_state import rows_snapshot_ids

AT_ONCE = timedelta(microseconds=-1)
HOUR = 3_600_000_000
STAMP = pa.timestamp("us", "UTC")
SCHEMA = pa.schema([("at", STAMP), ("x", pa.int64())])


def rows(day: int, x: int = 0) -> pa.Table:
    return pa.table(
        {"at": pa.array([datetime(2024, 1, day, 12, tzinfo=UTC)], STAMP), "x": pa.array([x], pa.int64())}
    )


def create_table(shop_lake: Lake) -> LakeTable:
    return shop_lake.ensure("items", SCHEMA, [("at", "day")])


@pytest.fixture
def table(shop_lake: Lake) -> LakeTable:
    return create_table(shop_lake)


@pytest.fixture
def local_table(local: Settings) -> LakeTable:
    return create_table(lake.open(local))


def write_unpublished(table: LakeTable) -> list[WrittenFile]:
    """Appends 1, and writes the files of a build that is to replace it by 2."""
    table.append(rows(1, 1))
    return table.write([rows(1, 2)])


def values(table: LakeTable, snapshot: int | None = None) -> list[int]:
    return sorted(table.scan(snapshot).collect()["x"].to_list())


def run_at_point(monkeypatch: pytest.MonkeyPatch, module: object, name: str, act: Callable[[], object]) -> None:
    """Calls `act` the first time that the code reaches the fault point."""
    pending = [act]

    def reach(point: str) -> None:
        if point == name and pending:
            pending.pop()()

    monkeypatch.setattr(module, "reach", reach)


class TestCompaction:
    def test_keeps_the_rows_and_the_facts(self, table: LakeTable) -> None:
        for n in range(10):
            table.append(rows(1, n), facts={LATEST_ARRIVAL: str(n)})
        table.append(rows(2, 99), facts={LATEST_ARRIVAL: "10"})
        assert lake.maintain(table).compacted == 10
        assert values(table) == [*range(10), 99]
        head = table.current_snapshot()
        assert head is not None
        assert (head.summary["total-data-files"], head.summary[LATEST_ARRIVAL]) == ("2", "10")

    def test_changes_no_day(self, local_table: LakeTable) -> None:
        table = local_table
        for n in range(10):
            seen = table.append(rows(1 + n % 2, n))
        lake.maintain(table, small=0)
        assert lake.maintain(table).compacted == 0  # five small files a day are too few to compact
        for n in range(10):
            seen = table.append(rows(1 + n % 2, n))
        assert lake.maintain(table).compacted == 20
        head = table.current_snapshot()
        assert head is not None
        assert table.partitions_changed(("at", "day"), seen.id, head.id) == set()

    def test_does_not_hide_newer_rows(self, local_table: LakeTable) -> None:
        table = local_table
        for n in range(8):
            table.append(rows(1, n))
        seen = table.append(rows(2))
        table.append(rows(1, 50))
        assert lake.maintain(table).compacted == 9
        head = table.current_snapshot()
        assert head is not None
        assert table.partitions_changed(("at", "day"), seen.id, head.id) == {number_of("day", date(2024, 1, 1))}

    def test_does_not_hide_a_removed_day(self, local_table: LakeTable) -> None:
        table = local_table
        for n in range(8):
            table.append(rows(1, n))
            seen = table.append(rows(2, n))
        table.overwrite(rows(1).slice(0, 0), partitions=(("at", "day"), [number_of("day", date(2024, 1, 2))]))
        lake.maintain(table)
        head = table.current_snapshot()
        assert head is not None
        assert table.partitions_changed(("at", "day"), seen.id, head.id) == {number_of("day", date(2024, 1, 2))}

    def test_of_evolved_columns(self, shop_lake: Lake, table: LakeTable) -> None:
        for n in range(8):
            table.append(rows(1, n))
        shop_lake.ensure("items", pa.schema([("more", pa.string())]))
        table.append(rows(1, 8).append_column("more", pa.array(["m"])))
        assert lake.maintain(table).compacted == 9
        assert table.scan().sort("x").collect()["more"].to_list() == [None] * 8 + ["m"]

    def test_commits_many_days_in_batches(
        self, local_table: LakeTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(compaction, "_GROUPS", 2)
        days = pa.concat_tables([rows(day, day) for day in range(1, 6)])
        for _ in range(8):
            local_table.append(days)
        before = len(local_table.snapshots())
        assert lake.maintain(local_table).compacted == 40
        assert len(local_table.snapshots()) == before + 3
        assert values(local_table) == sorted([1, 2, 3, 4, 5] * 8)

    def test_that_takes_longer_than_a_commit_may_gets_done(
        self, local_table: LakeTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However many small files there are: each commit replaces few, so the time of none runs out."""
        reading = 1_000_000  # microseconds that each file takes to read, on this clock
        clock = [now_micros()]

        def read_slowly(*arguments: Any) -> pa.Table:
            clock[0] += reading
            return read_files(*arguments)

        monkeypatch.setattr(compaction, "read_files", read_slowly)
        monkeypatch.setattr(compaction, "_FILES", 10)
        monkeypatch.setattr(compaction, "BRIEF", 15 * reading)
        for module in (compaction, commit):
            monkeypatch.setattr(module, "now_micros", lambda: clock[0])
        for n in range(30):
            local_table.append(rows(1, n))
        assert lake.maintain(local_table).compacted == 30
        assert values(local_table) == list(range(30))

    def test_leaves_a_file_of_a_row_group_alone(
        self, local_table: LakeTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(compaction, "ROW_GROUP", 10)
        for n in range(10):
            local_table.append(rows(1, n))
        assert lake.maintain(local_table).compacted == 10
        for n in range(10, 18):
            local_table.append(rows(1, n))
        assert lake.maintain(local_table).compacted == 8
        assert values(local_table) == list(range(18))

    def test_writes_a_row_again_only_once_its_file_has_doubled(self, local_table: LakeTable) -> None:
        counts = []
        for n in range(8 * 8):
            local_table.append(rows(1, n))
            if n % 8 == 7:
                counts.append(lake.maintain(local_table).compacted)
        # Files merge like the digits of a binary counter: new files alone, or with older ones of no more rows.
        assert counts == [8, 9, 8, 10, 8, 9, 8, 11]
        assert values(local_table) == list(range(64))

    def test_writes_whole_row_groups_of_rows_in_their_order(
        self, local_table: LakeTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lake_files, "ROW_GROUP", 3)
        for n in range(8):
            local_table.append(rows(1, n))
        assert lake.maintain(local_table).compacted == 8
        (path,) = local_table.iceberg().inspect.files()["file_path"].to_pylist()
        written = pq.ParquetFile(urlsplit(path).path)
        groups = [written.metadata.row_group(n).num_rows for n in range(written.num_row_groups)]
        assert groups == [3, 3, 2]
        assert written.read()["x"].to_pylist() == list(range(8))

    def test_yields_to_a_concurrent_overwrite(self, table: LakeTable, monkeypatch: pytest.MonkeyPatch) -> None:
        for n in range(8):
            table.append(rows(1, n))
        day = ("at", "day"), [number_of("day", date(2024, 1, 1))]
        replaced = lambda: table.overwrite(rows(1, 50), partitions=day)  # noqa: E731
        run_at_point(monkeypatch, commit, "lake.before_commit", replaced)
        assert lake.maintain(table).compacted == 0
        assert values(table) == [50]


class TestExpiry:
    def test_keeps_the_newest_and_tagged_snapshots(self, table: LakeTable) -> None:
        snapshots = [table.append(rows(1, n)) for n in range(5)]
        table.create_tag("kept", snapshots[1].id)
        assert lake.maintain(table, older_than=AT_ONCE).expired == 3
        assert [s.id for s in table.snapshots()] == [snapshots[1].id, snapshots[4].id]
        table.remove_tag("kept")
        assert lake.maintain(table, older_than=AT_ONCE).expired == 1

    def test_keeps_young_snapshots(self, table: LakeTable) -> None:
        for n in range(3):
            table.append(rows(1, n))
        assert lake.maintain(table).expired == 0

    def test_keeps_an_old_snapshot_that_was_current_a_moment_ago(
        self, local_table: LakeTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old, newer = local_table.append(rows(1)), local_table.append(rows(1))
        local_table.append(rows(1))
        # `old` was superseded when `newer` was written; `newer` was superseded just now.
        between = newer.at + timedelta(milliseconds=1)
        monkeypatch.setattr(maintenance, "steady_micros", lambda: int(between.timestamp() * 1e6))
        assert lake.maintain(local_table, older_than=timedelta()).expired == 1
        left = {s.id for s in local_table.snapshots()}
        assert old.id not in left
        assert newer.id in left

    def test_yields_to_a_tag_set_meanwhile(self, table: LakeTable, monkeypatch: pytest.MonkeyPatch) -> None:
        first = table.append(rows(1))
        table.append(rows(1))
        run_at_point(monkeypatch, expiry, "maintenance.expire", lambda: table.create_tag("late", first.id))
        assert lake.maintain(table, older_than=AT_ONCE).expired == 0
        assert table.snapshot("late").id == first.id

    def test_yields_to_another_expiry(self, table: LakeTable, monkeypatch: pytest.MonkeyPatch) -> None:
        for n in range(4):
            table.append(rows(1, n))
        faster = lambda: expiry.expire_snapshots(table.catalog, table.iceberg(), 1)  # noqa: E731
        run_at_point(monkeypatch, expiry, "maintenance.expire", faster)
        lake.maintain(table, older_than=AT_ONCE)
        assert len(table.snapshots()) == 1
        assert values(table) == [0, 1, 2, 3]

    def test_runs_while_others_commit(self, table: LakeTable, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(expiry, "NEWEST", 10)
        monkeypatch.setattr(expiry, "_SLACK", 5)
        first = table.append(rows(1))
        table.create_tag("first", first.id)
        for n in range(30):
            table.append(rows(1, n))
        history = table.snapshots()
        assert len(history) <= 17
        assert history[0].id == first.id
        head = table.current_snapshot()
        assert head is not None
        assert table.partitions_changed(("at", "day"), first.id, head.id) == {
            number_of("day", date(2024, 1, 1))
        }

    def test_failure_does_not_fail_the_commit(self, table: LakeTable, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise ConnectionResetError("the catalog is unavailable")

        monkeypatch.setattr(expiry, "NEWEST", 1)
        monkeypatch.setattr(expiry, "_SLACK", 0)
        monkeypatch.setattr(expiry, "expire_snapshots", fail)
        for n in range(3):
            table.append(rows(1, n))
        assert values(table) == [0, 1, 2]


class TestTags:
    def test_of_an_expired_snapshot_is_an_error(
        self, table: LakeTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = table.append(rows(1))
        table.append(rows(1))
        loaded = table.iceberg
        seen = []

        def load() -> object:
            iceberg = loaded()
            if not seen:
                seen.append(iceberg)
                assert expiry.expire_snapshots(table.catalog, loaded(), 1) == 1
            return iceberg

        monkeypatch.setattr(table, "iceberg", load)
        with pytest.raises(CallError, match="does not exist"):
            table.create_tag("late", first.id)
        assert table.tags() == {}

    def test_survive_concurrent_writers_and_expiries(
        self, settings: Settings, table: LakeTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A snapshot that is tagged while others expire stays readable; a tag on an expired one is refused."""
        monkeypatch.setattr(expiry, "NEWEST", 3)
        monkeypatch.setattr(expiry, "_SLACK", 0)
        monkeypatch.setattr("headrace.lake.write.BRIEF", 1_000_000)
        grace = timedelta(seconds=2)  # twice BRIEF, like the real grace period
        table.append(rows(1))
        ended = threading.Event()
        commits = 30 if settings.profile_name == "local" else 15

        def write(_: int) -> list[tuple[str, int, int]]:
            own = lake.open(settings).table("items")
            done = 0
            while done < commits:
                try:
                    own.append(rows(1, done))
                    done += 1
                except Unavailable as error:
                    assert "too long ago" in str(error)  # noqa: PT017
            return []

        def pin(number: int) -> list[tuple[str, int, int]]:
            own = lake.open(settings).table("items")
            done = []
            while not ended.is_set():
                chosen = own.snapshots()[0]  # the next one to expire
                name = f"pin-{number}-{len(done)}"
                try:
                    own.create_tag(name, chosen.id)
                    done.append((name, chosen.id, chosen.rows))
                except (CallError, Conflict):
                    done.append((name, 0, 0))
                ended.wait(0.1)
            return done

        def expire(_: int) -> list[tuple[str, int, int]]:
            own = lake.open(settings).table("items")
            while not ended.is_set():
                lake.maintain(own, older_than=AT_ONCE, grace=grace)
            return []

        with ThreadPoolExecutor(5) as threads:
            others = [threads.submit(pin, 0), threads.submit(pin, 1), threads.submit(expire, 0)]
            writers = [threads.submit(write, 0), threads.submit(write, 1)]
            for writer in writers:
                writer.result()
            ended.set()
            pinned = [entry for other in others for entry in other.result() if entry[1]]
        assert pinned
        assert table.tags() == {name: snapshot for name, snapshot, _ in pinned}
        for _, snapshot, count in pinned[:: max(1, len(pinned) // 10)]:
            assert len(values(table, snapshot)) == count
        assert len(values(table)) == 1 + 2 * commits
        assert missing_files(table) == set()


class TestSweep:
    def test_deletes_only_unreferenced_files(self, table: LakeTable) -> None:
        pinned = table.append(rows(1, 1))
        table.create_tag("kept", pinned.id)
        for n in range(9):
            table.append(rows(2, n))
        strays = {"data/stray.parquet", f"data/{APPENDED}stray.parquet", "metadata/stray-m0.avro"}
        for stray in strays:
            write_file(table, stray)
        assert lake.maintain(table, older_than=AT_ONCE).deleted == 0  # the default grace period is an hour
        assert strays < files(table).keys()
        done = lake.maintain(table, older_than=AT_ONCE, grace=AT_ONCE, longest_write=AT_ONCE)
        assert done.deleted > 9
        left = files(table)
        assert not strays & left.keys()
        assert sum(path.startswith("data/") for path in left) == 2
        assert values(table, pinned.id) == [1]
        assert values(table) == sorted([1, *range(9)])
        table.append(rows(3, 77))
        assert values(table)[-1] == 77
        assert missing_files(table) == set()

    def test_keeps_old_files_of_a_reader_for_the_grace(self, local_table: LakeTable) -> None:
        """What counts is how long a file has been unreferenced, not its age."""
        for n in range(8):
            local_table.append(rows(1, n))
        folder = Path(urlsplit(local_table.iceberg().location()).path)
        for path in files(local_table):
            os.utime(folder / path, (1.7e9, 1.7e9))
        reading = local_table.scan()
        kept = lake.maintain(local_table, older_than=AT_ONCE)
        assert (kept.compacted, kept.deleted) == (8, 0)
        assert reading.collect().height == 8

    def test_counts_the_grace_from_the_first_sighting(
        self, local_table: LakeTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for n in range(8):
            local_table.append(rows(1, n))
        small = {path for path in files(local_table) if path.startswith("data/")}
        clock = [now_micros()]
        monkeypatch.setattr(orphan_files, "steady_micros", lambda: clock[0])
        hour = timedelta(hours=1)
        assert lake.maintain(local_table, older_than=AT_ONCE, grace=hour, longest_write=AT_ONCE).deleted == 0
        clock[0] += HOUR // 2
        assert lake.maintain(local_table, grace=hour, longest_write=AT_ONCE).deleted == 0
        assert small < files(local_table).keys()
        clock[0] += HOUR // 2 + 1
        assert lake.maintain(local_table, grace=hour, longest_write=AT_ONCE).deleted >= 8
        assert not small & files(local_table).keys()
        assert (
            sum("unreferenced" in path for path in files(local_table)) == 2
        )  # the lists of this removal and of the one before

    def test_runs_at_most_ten_times_in_a_grace(
        self, local_table: LakeTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        local_table.append(rows(1))
        lake.maintain(local_table)
        swept = local_table.property(ORPHANS_REMOVED)
        lake.maintain(local_table)
        assert local_table.property(ORPHANS_REMOVED) == swept
        later = now_micros() + HOUR // 10
        monkeypatch.setattr(orphan_files, "steady_micros", lambda: later)
        lake.maintain(local_table)
        assert local_table.property(ORPHANS_REMOVED) == str(later)

    def test_keeps_the_files_of_a_write_under_way(self, local_table: LakeTable) -> None:
        table = local_table
        table.append(rows(1, 1))
        iceberg = table.iceberg()
        written = write_files(conform(rows(2, 2), iceberg), iceberg, prefix=APPENDED)
        written += write_files(conform(rows(2, 3), iceberg), iceberg)
        names = {file.file_path.rpartition("/")[2] for file in written}

        def existing_files() -> set[str]:
            return {path.removeprefix("data/") for path in files(table)} & names

        lake.maintain(table, grace=AT_ONCE)
        assert existing_files() == names  # the files are newer than the head
        table.append(rows(1, 4))
        lake.maintain(table, grace=timedelta(seconds=0.001))
        lake.maintain(table, grace=AT_ONCE)
        assert {name for name in existing_files() if name.startswith(APPENDED)} == set()
        assert len(existing_files()) == 1  # it may belong to an overwrite, which may take hours

    def test_keeps_the_files_of_a_build_while_the_clock_is_ahead(
        self, local_table: LakeTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        table, begun = local_table, now_micros()
        written = write_unpublished(table)
        lake.maintain(table)
        with monkeypatch.context() as patch:
            patch.setattr("headrace.kernel.time.time_ns", lambda: time.time_ns() + 48 * HOUR * 1_000)
            lake.maintain(table)
        table.overwrite(written, written_at=begun)
        assert values(table) == [2]

    def test_of_another_clock_leaves_no_table_without_its_files(
        self, local_table: LakeTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The files of a build are gone, because the clock of another machine was ahead from its start."""
        table, begun = local_table, now_micros()
        written = write_unpublished(table)
        for hours in (48, 50):
            monkeypatch.setattr(orphan_files, "steady_micros", lambda hours=hours: now_micros() + hours * HOUR)
            deleted = lake.maintain(table).deleted
        assert deleted == 1
        with pytest.raises(Conflict, match="was deleted before its commit"):
            table.overwrite(written, written_at=begun)
        assert values(table) == [1]

    def test_runs_again_soon_after_one_with_a_clock_that_was_ahead(
        self, local_table: LakeTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        local_table.append(rows(1))
        with monkeypatch.context() as patch:
            patch.setattr(orphan_files, "steady_micros", lambda: now_micros() + 48 * HOUR)
            lake.maintain(local_table)
        ahead = local_table.property(ORPHANS_REMOVED)
        lake.maintain(local_table)
        assert int(local_table.property(ORPHANS_REMOVED) or 0) < int(ahead or 0)

    def test_refuses_a_commit_that_comes_too_late(
        self, local_table: LakeTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A writer hangs after it wrote its file: maintenance may delete the file before the commit."""
        local_table.append(rows(1, 1))
        late = now_micros() + HOUR // 2 + 1_000_000
        run_at_point(
            monkeypatch,
            commit,
            "lake.before_commit",
            lambda: monkeypatch.setattr(commit, "now_micros", lambda: late),
        )
        with pytest.raises(Unavailable, match="too long ago"):
            local_table.append(rows(1, 2))
        assert values(local_table) == [1]

    def test_keeps_files_that_a_concurrent_commit_added(
        self, table: LakeTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A commit after the files were listed, and before the references are read."""
        table.append(rows(1, 1))
        write_file(table, "data/stray.parquet")
        run_at_point(monkeypatch, orphan_files, "maintenance.listed", lambda: table.append(rows(1, 2)))
        lake.maintain(table, grace=AT_ONCE, longest_write=AT_ONCE)
        assert "data/stray.parquet" not in files(table)
        assert values(table) == [1, 2]
        assert missing_files(table) == set()


class TestLease:
    def test_has_one_holder(self, table: LakeTable) -> None:
        table.append(rows(1))
        holder = Lease(table.catalog, table.iceberg)
        assert holder.take()
        assert lake.maintain(table) == lake.MaintenanceReport(busy=True)
        assert table.tags() == {}
        holder.renew(now=True)
        assert lake.maintain(table).busy
        holder.release({"headrace.note": "done"})
        assert table.property("headrace.note") == "done"
        assert not lake.maintain(table).busy
        assert set(table.iceberg().refs()) == {"main"}

    def test_of_a_table_without_a_snapshot_is_not_needed(self, table: LakeTable) -> None:
        assert lake.maintain(table) == lake.MaintenanceReport()

    def test_can_be_taken_after_its_time(self, table: LakeTable, monkeypatch: pytest.MonkeyPatch) -> None:
        table.append(rows(1))
        hanging = Lease(table.catalog, table.iceberg)
        monkeypatch.setattr(lease, "SECONDS", 0.0)
        assert hanging.take()
        monkeypatch.undo()
        assert Lease(table.catalog, table.iceberg).take()
        with pytest.raises(Conflict, match="another maintenance"):
            hanging.renew()
        with pytest.raises(Conflict, match="another maintenance"):
            hanging.release({"headrace.note": "late"})
        assert table.property("headrace.note") is None
        assert lake.maintain(table).busy

    def test_of_a_holder_whose_clock_was_ahead_is_free(
        self, table: LakeTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        table.append(rows(1))
        with monkeypatch.context() as patch:
            patch.setattr(lease, "now_micros", lambda: now_micros() + 48 * HOUR)
            assert Lease(table.catalog, table.iceberg).take()
        assert not lake.maintain(table).busy

    def test_is_taken_by_one_of_many(self, settings: Settings, table: LakeTable) -> None:
        table.append(rows(1))
        together = threading.Barrier(4)

        def attempt(_: int) -> tuple[bool, Lease]:
            own = lake.open(settings).table("items")
            own_lease = Lease(own.catalog, own.iceberg)
            together.wait(60)
            return own_lease.take(), own_lease

        for _ in range(3):
            with ThreadPoolExecutor(4) as threads:
                tries = list(threads.map(attempt, range(4)))
            winners = [holder for taken, holder in tries if taken]
            assert len(winners) == 1
            winners[0].release({})

    @pytest.mark.parametrize(
        "point", ["maintenance.leased", "maintenance.expire", "maintenance.listed", "maintenance.delete"]
    )
    def test_holder_that_hangs_and_wakes_up_does_no_harm(
        self, table: LakeTable, monkeypatch: pytest.MonkeyPatch, point: str
    ) -> None:
        first = table.append(rows(1, 0))
        for n in range(1, 9):
            table.append(rows(1, n))
        monkeypatch.setattr(lease, "SECONDS", 0.0)

        def meanwhile() -> None:
            """Runs other maintenance, after the lease of the hanging one has expired."""
            with suppress(CallError):  # it has expired
                table.create_tag("first", first.id)
            lake.maintain(table, older_than=AT_ONCE, grace=AT_ONCE, longest_write=AT_ONCE)
            for n in range(9, 18):
                table.append(rows(1, n))
            lake.maintain(table, older_than=AT_ONCE, grace=AT_ONCE, longest_write=AT_ONCE)

        module = {"maintenance.leased": maintenance, "maintenance.expire": expiry}.get(point, orphan_files)
        pending = [meanwhile]

        def reach(reached: str) -> None:
            if reached == point and pending:
                pending.pop()()

        monkeypatch.setattr(module, "reach", reach)
        lake.maintain(table, older_than=AT_ONCE, grace=AT_ONCE, longest_write=AT_ONCE)
        assert not pending
        assert missing_files(table) == set()
        assert values(table) == list(range(18))
        if table.tags():
            assert values(table, first.id) == [0]


def test_compaction_keeps_the_id_of_the_snapshot_that_wrote_the_rows(
    settings: Settings, table: LakeTable
) -> None:
    for x in range(9):
        newest = table.append(rows(1, x))
    for _ in range(2):  # the second round compacts the file of the first round and newer files
        assert lake.maintain(table, older_than=AT_ONCE).compacted
        head = table.current_snapshot()
        assert head is not None
        assert head.id != newest.id
        assert rows_snapshot_ids(lake.open(settings), ["items", "none"]) == {"items": newest.id, "none": None}
        for x in range(30):
            newest = table.append(rows(1, x))
        assert rows_snapshot_ids(lake.open(settings), ["items"]) == {"items": newest.id}


def test_rollback_restores_rows_and_columns(shop_lake: Lake, table: LakeTable) -> None:
    first = table.overwrite(rows(1, 1), properties={"headrace.code": "a"}, facts={"headrace.code": "a"})
    wide = rows(2, 2).append_column("more", pa.array([1.5]))
    shop_lake.ensure("items", wide.schema)
    second = table.overwrite(wide, properties={"headrace.code": "b"}, facts={"headrace.code": "b"})
    assert table.rollback_to_snapshot(first.id).id == first.id
    assert table.scan().collect().columns == table.schema().names == ["at", "x"]
    assert values(table) == [1]
    assert table.property("headrace.code") == "a"
    lake.maintain(table, older_than=AT_ONCE)
    assert {snapshot.id for snapshot in table.snapshots()} >= {first.id}
    third = table.append(rows(3, 3))
    assert third.parent == first.id
    assert values(table) == [1, 3]
    table.rollback_to_snapshot(second.id)
    assert table.scan().collect()["more"].to_list() == [1.5]
    with pytest.raises(CallError, match="does not exist"):
        table.rollback_to_snapshot(7)


def test_rollback_keeps_its_snapshot_from_a_concurrent_expiry(
    table: LakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = table.append(rows(1, 1))
    table.append(rows(1, 2))
    run_at_point(monkeypatch, expiry, "maintenance.expire", lambda: table.rollback_to_snapshot(first.id))
    lake.maintain(table, older_than=AT_ONCE)
    assert values(table) == [1]
