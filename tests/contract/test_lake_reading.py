"""The contract of the lake's port of reading: the embedded lake's reader, and PyIceberg, on the same tables."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal
from services.catalog import JAVA
from services.server import jars
from tests.contract.lake_history import FILTERS, History, write_history

from headrace import lake
from headrace.config.settings import Settings, make_settings
from headrace.declare.partitioning import number_of
from headrace.kernel.addresses import path_of
from headrace.kernel.errors import CallError, Unavailable
from headrace.kernel.position import LogPosition
from headrace.lake import Lake, LakeTable
from headrace.lake.catalog import open_catalog
from headrace.lake.metadata import TableMetadata
from headrace.lake.reading import embedded as embedded_reader
from headrace.lake.reading import scan
from headrace.lake.reading.embedded import EmbeddedReader, EmbeddedTable
from headrace.lake.reading.manifests import ManifestFile, read_manifests
from headrace.lake.reading.port import CatalogReader, StoredTable
from headrace.lake.reading.pyiceberg import PyIcebergReader

EPOCH = date(1970, 1, 1)
SEEDS = range(10)
AT_ONCE = timedelta(microseconds=-1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path, "shop", state=tmp_path / "state")


def by_pyiceberg(settings: Settings) -> CatalogReader:
    return PyIcebergReader(open_catalog(settings), settings.project, "the catalog")


def embedded(settings: Settings) -> CatalogReader:
    return lake.open(settings).reader


@pytest.fixture(params=[embedded, by_pyiceberg], ids=["embedded", "pyiceberg"])
def shop_lake(request: pytest.FixtureRequest, settings: Settings) -> Lake:
    """The lake, read by each implementation."""
    opened = lake.open(settings)
    assert isinstance(opened.reader, EmbeddedReader)
    opened.reader = request.param(settings)
    return opened


def compare(read: pl.DataFrame, expected: pl.DataFrame) -> None:
    assert_frame_equal(read.sort("key"), expected, check_column_order=False, check_exact=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_snapshot_holds_what_was_written(shop_lake: Lake, seed: int) -> None:
    history = write_history(shop_lake, seed)
    table = shop_lake.table("events")
    snapshots = {snapshot.id for snapshot in table.snapshots()}
    assert snapshots <= history.versions.keys()
    assert table.tags() == history.tags
    assert {name: table.snapshot(name).id for name in history.tags} == history.tags
    for snapshot in snapshots:
        expected = history.versions[snapshot].frame()
        compare(table.scan(snapshot).collect(), expected)
        assert table.snapshot(snapshot).rows == expected.height
        for name, make in FILTERS.items():
            condition = make()
            if set(condition.meta.root_names()) <= set(expected.columns) and is_comparable(expected, condition):
                read = table.scan(snapshot).filter(condition)
                compare(read.collect(), expected.filter(condition))
                assert read.select(pl.len()).collect().item() == expected.filter(condition).height, name
    for snapshot in history.versions.keys() - snapshots:
        with pytest.raises(CallError, match=f"snapshot {snapshot} does not exist"):
            table.scan(snapshot)
    current = table.current_snapshot()
    assert current is not None
    compare(table.scan().collect(), history.versions[current.id].frame())  # a column may be newer
    assert list(table.schema()) == list(pa.schema(list(large_types(history).items())))
    assert table.partition_by() == tuple(history.partition_by)
    check_counts(table, history)
    check_changed_rows(table, history)


def is_comparable(frame: pl.DataFrame, condition: pl.Expr) -> bool:
    """Whether the columns have the types that the condition compares: some were replaced."""
    try:
        frame.filter(condition)
    except pl.exceptions.PolarsError:
        return False
    return True


def large_types(history: History) -> dict[str, pa.DataType]:
    """The columns' types as the lake reads them, in the table's order."""
    types = history.now.types
    large: dict[str, pa.DataType] = {}
    for field in history.table.schema():
        kind = types[field.name]
        large[field.name] = field.type
        assert pl.Schema(pa.schema([("x", kind)])) == pl.Schema(pa.schema([("x", field.type)]))
    assert large.keys() == types.keys()
    return large


def check_counts(table: LakeTable, history: History) -> None:
    """Checks the rows of each day, and the days that changed, against the rows."""
    days = [column for column, transform in history.partition_by if transform == "day"]
    if not days:
        with pytest.raises(CallError, match="not partitioned by the day of 'at'"):
            table.rows_per_partition(("at", "day"), next(iter(table.snapshots())).id)
        return
    (column,) = days
    snapshots = table.snapshots()
    for snapshot in snapshots:
        rows = history.versions[snapshot.id].rows
        per_day = Counter(day_of(row[column]) for row in rows if row.get(column) is not None)
        assert table.rows_per_partition((column, "day"), snapshot.id) == dict(sorted(per_day.items()))
        if ("good", "identity") in history.partition_by:
            good = Counter(day_of(row[column]) for row in rows if row.get(column) and row.get("good"))
            assert table.rows_per_partition((column, "day"), snapshot.id, {"good": True}) == good
    for old in snapshots:
        changed = table.partitions_changed((column, "day"), old.id, snapshots[-1].id)
        if changed is not None:
            before, after = (
                rows_by_day(history.versions[snapshot.id].rows, column) for snapshot in (old, snapshots[-1])
            )
            differ = {day for day in before.keys() | after.keys() if before.get(day) != after.get(day)}
            assert differ <= changed


def check_changed_rows(table: LakeTable, history: History) -> None:
    """Checks that the rows of the files that changed, added less removed, are those that changed."""
    snapshots = table.snapshots()
    last = snapshots[-1].id
    for old in snapshots:
        frames = table.scan_changes(old.id, last, limit=10**6)
        assert frames is not None
        assert table.scan_changes(old.id, last, limit=-1) is None
        removed, added = (Counter(frame.select("key").collect()["key"]) for frame in frames)
        before, after = (
            Counter(row["key"] for row in history.versions[snapshot].rows) for snapshot in (old.id, last)
        )
        assert added - removed == after - before
        assert removed - added == before - after


def day_of(value: datetime | date) -> int:
    return number_of("day", value)


def rows_by_day(rows: list[dict[str, Any]], column: str) -> dict[int, set[int]]:
    keys: dict[int, set[int]] = {}
    for row in rows:
        if row.get(column) is not None:
            keys.setdefault(day_of(row[column]), set()).add(row["key"])
    return keys


@pytest.mark.parametrize("seed", SEEDS)
def test_both_read_the_same_metadata_files_and_rows(settings: Settings, seed: int) -> None:
    write_history(lake.open(settings), seed)
    own, other = embedded(settings), by_pyiceberg(settings)
    assert own.list_tables() == other.list_tables() == ["events"]
    table, oracle = own.find("events"), other.find("events")
    assert isinstance(table, EmbeddedTable)
    assert oracle is not None
    assert (table.file, table.metadata) == (oracle.file, oracle.metadata)
    assert table.schema().equals(oracle.schema(), check_metadata=True)
    ids = [snapshot.snapshot_id for snapshot in table.metadata.snapshots]
    for snapshot in ids:
        assert_frame_equal(
            table.scan(snapshot).collect().sort("key"), oracle.scan(snapshot).collect().sort("key")
        )
        for unless_in in (None, *ids):
            files = [reader.files(snapshot, unless_in=unless_in) for reader in (table, oracle)]
            assert len(files[0]) == len(files[1])
            assert set(files[0]) == set(files[1])


class TestEmptyTables:
    def test_lake_without_a_catalog_has_no_tables_and_creates_nothing(
        self, settings: Settings, tmp_path: Path
    ) -> None:
        opened = lake.open(settings)
        assert opened.list_tables() == []
        assert not opened.table_exists("events")
        with pytest.raises(CallError, match="table 'events' does not exist in the lake"):
            opened.table("events")
        assert list(tmp_path.iterdir()) == []

    def test_table_without_a_snapshot_has_its_columns_and_no_rows(self, shop_lake: Lake) -> None:
        schema = pa.schema([("at", pa.timestamp("us", "UTC")), ("words", pa.list_(pa.string()))])
        table = shop_lake.ensure("events", schema, [("at", "day")])
        assert table.current_snapshot() is None
        assert table.snapshots() == []
        assert table.tags() == {}
        assert table.position("ingest") is None
        assert table.partition_by() == (("at", "day"),)
        frame = table.scan().collect()
        assert frame.schema == {"at": pl.Datetime("us", "UTC"), "words": pl.List(pl.String)}
        assert frame.is_empty()
        with pytest.raises(CallError, match="no rows yet"):
            table.snapshot(datetime.now(UTC))

    def test_snapshot_without_files_has_the_columns(self, shop_lake: Lake) -> None:
        table = shop_lake.ensure("events", pa.schema([("key", pa.int64())]))
        table.append(pa.table({"key": [1]}))
        table.overwrite(pa.table({"key": pa.array([], pa.int64())}))
        assert table.scan().collect().schema == {"key": pl.Int64}
        assert table.scan().select(pl.len()).collect().item() == 0

    def test_table_that_was_dropped_does_not_exist(self, shop_lake: Lake) -> None:
        table = shop_lake.ensure("events", pa.schema([("key", pa.int64())]))
        shop_lake.drop_table("events")
        assert not shop_lake.table_exists("events")
        for read in (table.scan, table.schema, table.current_snapshot):
            with pytest.raises(CallError, match="table 'events' does not exist in the lake"):
                read()

    def test_other_namespaces_are_not_seen(self, settings: Settings, shop_lake: Lake) -> None:
        shop_lake.ensure("events", pa.schema([("key", pa.int64())]))
        other = lake.open(make_settings(settings.root, "other", state=settings.state))
        other.ensure("orders", pa.schema([("key", pa.int64())]))
        assert shop_lake.list_tables() == ["events"]
        assert other.list_tables() == ["orders"]


def test_positions_properties_facts_and_times_are_read(shop_lake: Lake) -> None:
    start = LogPosition("events", "id-1")
    table = shop_lake.ensure("events", pa.schema([("key", pa.int64())]))
    moved = start.with_offsets({0: 3})
    first = table.append(
        pa.table({"key": [1, 2, 3]}),
        position=("ingest", None, moved),
        facts={"headrace.fact": "née"},
        properties={"headrace.note": '{"a": "ü"}'},
    )
    second = table.append(pa.table({"key": [4]}))
    table.set_properties({"headrace.note": "new"})
    assert table.position("ingest") == moved
    assert table.property("headrace.note") == "new"
    assert table.property("headrace.other") is None
    assert table.snapshots() == [first, second]
    assert table.current_snapshot() == second
    assert table.snapshot(first.id) == first
    assert first.summary["headrace.fact"] == "née"
    assert (first.operation, first.parent, second.parent) == ("append", None, first.id)
    assert (first.rows, second.rows) == (3, 4)
    assert table.snapshot(second.at) == second
    assert table.snapshot(second.at + timedelta(days=1)) == second
    assert table.uuid() == str(table.iceberg().metadata.table_uuid)
    with pytest.raises(CallError, match="tag 'none' does not exist"):
        table.snapshot("none")
    with pytest.raises(CallError, match="had no rows yet"):
        table.snapshot(first.at - timedelta(days=1))


class TestFilesThatAreMissing:
    @pytest.fixture
    def table(self, shop_lake: Lake) -> LakeTable:
        table = shop_lake.ensure(
            "events", pa.schema([("key", pa.int64()), ("day", pa.date32())]), [("day", "day")]
        )
        table.append(pa.table({"key": [1], "day": [EPOCH]}))
        return table

    def test_metadata_file_is_reported(self, table: LakeTable) -> None:
        Path(table.iceberg().metadata_location).unlink()
        for read in (table.scan, table.schema, table.current_snapshot):
            with pytest.raises(Unavailable, match="the warehouse's files cannot be read or written"):
                read()

    @pytest.mark.parametrize("name", ["snap-*.avro", "*-m0.avro"])
    def test_list_of_files_is_reported(self, table: LakeTable, name: str) -> None:
        snapshot = table.current_snapshot()
        assert snapshot is not None
        for path in Path(table.iceberg().location()).glob(f"metadata/{name}"):
            path.unlink()
        with pytest.raises(Unavailable, match="the warehouse's files cannot be read or written"):
            table.rows_per_partition(("day", "day"), snapshot.id)
        with pytest.raises((Unavailable, FileNotFoundError)):
            table.scan().collect()

    def test_data_file_is_reported(self, table: LakeTable) -> None:
        for path in Path(table.iceberg().location()).glob("data/**/*.parquet"):
            path.unlink()
        with pytest.raises(FileNotFoundError):
            table.scan().collect()


def test_catalog_that_is_not_a_database_is_reported(settings: Settings) -> None:
    path = settings.place("lake", "catalog.db")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(Unavailable, match="the catalog is damaged: file is not a database"):
        lake.open(settings).list_tables()


def test_reader_and_writer_of_a_moved_lake(settings: Settings, tmp_path: Path) -> None:
    history = write_history(lake.open(settings), 3)
    folder = tmp_path / "else where#1" / "state"
    folder.parent.mkdir()
    settings.state.rename(folder)
    moved = settings.with_state(folder)
    table = lake.open(moved).table("events")
    for snapshot in table.snapshots():
        compare(table.scan(snapshot.id).collect(), history.versions[snapshot.id].frame())


# Appends the keys 0, 1, 2 ... one at a time. Each commit deletes the metadata file before the last.
WRITER = """
import sys
import pyarrow as pa
from pathlib import Path
from headrace import lake
from headrace.config.settings import make_settings

root = Path(sys.argv[1])
table = lake.open(make_settings(root, "shop", state=root / "state")).table("events")
for key in range(1, int(sys.argv[2])):
    table.append(pa.table({"key": [key]}))
    print(key, flush=True)
"""


class TestCommitsDuringARead:
    @pytest.fixture
    def table(self, shop_lake: Lake) -> LakeTable:
        table = shop_lake.ensure("events", pa.schema([("key", pa.int64())]))
        table.set_properties({"write.metadata.previous-versions-max": "1"})
        table.append(pa.table({"key": [0]}))
        return table

    def test_do_not_disturb_it(self, settings: Settings, table: LakeTable) -> None:
        command = [sys.executable, "-c", WRITER, str(settings.root), "40"]
        seen = 1
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            while writer.poll() is None:
                keys = table.scan().collect()["key"].sort().to_list()
                assert keys == list(range(len(keys)))
                assert seen <= len(keys)
                seen = len(keys)
                current = table.current_snapshot()
                assert current is not None
                assert current.rows >= seen
        assert writer.returncode == 0
        assert table.scan().collect().height == 40

    def test_may_remove_the_metadata_file_that_the_catalog_named(
        self, settings: Settings, table: LakeTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        removed: list[Path] = []

        def commit_first(file: str) -> TableMetadata:
            if not removed:
                removed.append(Path(file))
                append_keys(settings, 3)
                assert not removed[0].exists()
            return decode(file)

        decode = embedded_reader._decode
        monkeypatch.setattr(embedded_reader, "_decode", commit_first)
        assert sorted(lake.open(settings).table("events").scan().collect()["key"]) == [0, 1, 2, 3]
        assert removed

    @pytest.mark.parametrize("is_named", [False, True], ids=["newest", "named"])
    def test_may_remove_the_lists_of_files_of_a_snapshot(
        self, settings: Settings, table: LakeTable, monkeypatch: pytest.MonkeyPatch, *, is_named: bool
    ) -> None:
        current = table.current_snapshot()
        assert current is not None
        removed: list[Path] = []

        def maintain_first(metadata: TableMetadata, snapshot: int) -> tuple[ManifestFile, ...]:
            if not removed:
                stored = metadata.snapshot(snapshot)
                assert stored is not None
                removed.append(Path(stored.manifest_list or ""))
                append_keys(settings, 3)
                lake.maintain(table, older_than=AT_ONCE, grace=AT_ONCE, longest_write=AT_ONCE)
                assert not removed[0].exists()
            return read_manifests(metadata, snapshot)

        monkeypatch.setattr(scan, "read_manifests", maintain_first)
        events = lake.open(settings).table("events")
        if is_named:
            with pytest.raises(CallError, match=f"snapshot {current.id} does not exist"):
                events.scan(current.id)
        else:
            assert sorted(events.scan().collect()["key"]) == [0, 1, 2, 3]
        assert removed


def append_keys(settings: Settings, count: int) -> None:
    """Appends the keys 1, 2 ..., one at a time."""
    table = lake.open(settings).table("events")
    for key in range(1, count + 1):
        table.append(pa.table({"key": [key]}))


class TestTablesOfAnotherEngine:
    """The embedded reader reads what it knows, and leaves the rest to PyIceberg, with its errors."""

    @pytest.fixture
    def change(self, settings: Settings) -> Callable[[str], tuple[StoredTable, StoredTable]]:
        """Changes a table of three rows by the Java implementation; returns the table of each reader."""
        table = lake.open(settings).ensure("events", pa.schema([("key", pa.int64()), ("name", pa.string())]))
        table.append(pa.table({"key": [1, 2, 3], "name": ["a", "b", "c"]}))

        def run(name: str) -> tuple[StoredTable, StoredTable]:
            command = [*JAVA, "-cp", f"{jars('catalog')}/*", str(Path(__file__).with_name("Change.java"))]
            catalog = f"uri=jdbc:sqlite:{path_of(settings.lake.catalog_url)}"
            options = ["type=jdbc", catalog, f"warehouse={settings.lake.warehouse_url}"]
            done = subprocess.run(
                [*command, "shop.events", name, *options],
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            own, other = embedded(settings).find("events"), by_pyiceberg(settings).find("events")
            assert own is not None
            assert other is not None
            return own, other

        return run

    @pytest.mark.parametrize(
        ("name", "key", "rows", "is_own"),
        [
            ("append", "key", 4, True),
            ("rename", "renamed", 4, True),
            ("compress-metadata", "key", 4, False),
            ("upgrade", "key", 3, False),
        ],
    )
    def test_are_read(
        self,
        change: Callable[[str], tuple[StoredTable, StoredTable]],
        name: str,
        key: str,
        rows: int,
        *,
        is_own: bool,
    ) -> None:
        own, other = change(name)
        assert isinstance(own, EmbeddedTable) == is_own
        expected = [(1, "a"), (2, "b"), (3, "c"), (100, "from Java")][:rows]
        for table in (own, other):
            snapshot = table.metadata.current_snapshot_id
            assert snapshot is not None
            frame = table.scan(snapshot).collect()
            assert frame.columns == [key, "name"]
            assert sorted(frame.rows()) == expected
            assert sum(file.rows for file in table.files(snapshot)) == rows

    @pytest.mark.parametrize("name", ["append-orc", "delete-position", "delete-key"])
    def test_that_neither_reads_are_refused(
        self, change: Callable[[str], tuple[StoredTable, StoredTable]], name: str
    ) -> None:
        errors = []
        for table in change(name):
            snapshot = table.metadata.current_snapshot_id
            assert snapshot is not None
            with pytest.raises((pl.exceptions.ComputeError, ValueError)) as caught:
                table.scan(snapshot).collect()
            errors.append((caught.type, str(caught.value)))
        assert errors[0] == errors[1]


def test_files_whose_columns_are_all_null_are_read(shop_lake: Lake) -> None:
    rows = pa.table({"a": pa.array([1, None], pa.int64()), "b": pa.array(["x", None])})
    table = shop_lake.ensure("nulls", rows.schema)
    for part in (rows[1:], rows[:1], rows[1:]):
        table.append(part)
    assert table.scan().collect().sort("a").rows() == [(None, None), (None, None), (1, "x")]
    assert table.scan().filter(pl.col("a") == 1).collect().rows() == [(1, "x")]


FALLIBLE_FILTERS: dict[str, Callable[[], pl.Expr]] = {
    "number": lambda: pl.col("amount").cast(pl.Float64) > 2,
    "no_number": lambda: pl.col("amount").cast(pl.Float64).is_null(),
    "function": lambda: pl.col("amount").map_elements(lambda text: float(text) > 2, return_dtype=pl.Boolean),
    # The statistics of the lake's files have the first 16 characters alone.
    "time": lambda: pl.col("at").str.to_datetime("%Y-%m-%dT%H:%M:%S%z") > datetime(2024, 1, 1, 12, tzinfo=UTC),
    "end": lambda: pl.col("at").str.slice(17, 2).cast(pl.Int64) == 7,
    "bytes": lambda: pl.col("raw").bin.slice(17, 2).cast(pl.String).cast(pl.Int64) == 7,
}


@pytest.mark.filterwarnings("ignore::polars.exceptions.PolarsInefficientMapWarning")
@pytest.mark.parametrize("name", FALLIBLE_FILTERS)
def test_a_filter_that_may_raise_sees_the_rows_alone(shop_lake: Lake, name: str) -> None:
    rows = pl.DataFrame(
        {
            "amount": ["12.5", None, None, "1"],
            "at": ["2024-01-01T00:00:07+00:00", "2024-01-02T00:00:00+00:00", None, "2024-01-03T00:00:07+00:00"],
            "raw": [b"2024-01-01T00:00:07Z", None, b"2024-01-01T00:00:08Z", b"2024-01-01T00:00:09Z"],
        }
    )
    table = shop_lake.ensure("texts", rows.to_arrow().schema)
    for part in (rows[:2], rows[2:]):
        table.append(part.to_arrow())
    condition = FALLIBLE_FILTERS[name]()
    assert_frame_equal(table.scan().filter(condition).collect(), rows.filter(condition), check_row_order=False)
