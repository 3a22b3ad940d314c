"""A table of the lake: appends with a position, replaced days, scans, pins."""

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pyarrow as pa
import pytest

from headrace import lake
from headrace.config.settings import Settings
from headrace.kernel.errors import CallError, Conflict
from headrace.kernel.position import LogPosition, SnapshotPosition
from headrace.kernel.properties import LATEST_ARRIVAL
from headrace.lake import Lake, LakeTable

SCHEMA = pa.schema(
    [("at", pa.timestamp("us", "UTC")), ("_valid", pa.bool_()), ("x", pa.int32()), ("name", pa.string())]
)
START = LogPosition("events", "id-1")


def rows(count: int, day: int, *, x: int = 0, valid: bool = True) -> pa.Table:
    begin = datetime(2024, 1, day, tzinfo=UTC)
    return pa.table(
        {
            "at": pa.array([begin + timedelta(seconds=i) for i in range(count)], pa.timestamp("us", "UTC")),
            "_valid": pa.array([valid] * count, pa.bool_()),
            "x": pa.array([x] * count, pa.int32()),
            "name": pa.array(["a"] * count),
        }
    )


@pytest.fixture
def table(shop_lake: Lake) -> LakeTable:
    return create_table(shop_lake)


def create_table(shop_lake: Lake) -> LakeTable:
    return shop_lake.ensure("events", SCHEMA, [("_valid", "identity"), ("at", "day")])


def read_rows(table: LakeTable, snapshot: int | None = None) -> list[tuple[int, int]]:
    """(day of January, x), sorted."""
    frame = table.scan(snapshot).select(pl.col("at").dt.day(), "x").collect()
    return sorted(frame.rows())


class TestAppend:
    def test_moves_the_position_with_the_rows(self, table: LakeTable) -> None:
        moved = START.with_offsets({0: 10})
        snapshot = table.append(rows(2, 1), position=("ingest", None, moved), facts={LATEST_ARRIVAL: "5"})
        assert table.position("ingest") == moved
        assert table.current_snapshot() == snapshot
        assert snapshot.summary[LATEST_ARRIVAL] == "5"
        assert snapshot.rows == 2

    def test_conflicts_where_its_log_partition_has_moved(self, table: LakeTable) -> None:
        table.append(rows(2, 1), position=("ingest", None, START.with_offsets({0: 10})))
        with pytest.raises(Conflict, match="log partition 0 to 10; expected was 0"):
            table.append(rows(3, 1), position=("ingest", None, START.with_offsets({0: 4})))
        assert table.scan().collect().height == 2

    def test_keeps_what_another_writer_did_to_other_log_partitions(self, table: LakeTable) -> None:
        table.append(rows(2, 1), position=("ingest", None, START.with_offsets({0: 10})))
        table.append(rows(3, 1), position=("ingest", START, START.with_offsets({1: 4})))
        assert table.position("ingest") == START.with_offsets({0: 10, 1: 4})

    def test_without_rows_moves_only_the_position(self, table: LakeTable) -> None:
        snapshot = table.append(rows(0, 1), position=("ingest", None, START.with_offsets({0: 10})))
        assert table.position("ingest") == START.with_offsets({0: 10})
        assert snapshot.rows == 0

    def test_refuses_a_topic_made_again(self, table: LakeTable) -> None:
        table.append(rows(1, 1), position=("ingest", None, START.with_offsets({0: 10})))
        with pytest.raises(Conflict, match="belongs to another log"):
            table.append(rows(1, 1), position=("ingest", None, LogPosition("events", "id-2", {0: 1})))

    def test_takes_snapshot_positions(self, table: LakeTable) -> None:
        first, second = SnapshotPosition("up", 1), SnapshotPosition("up", 2)
        table.append(rows(1, 1), position=("made", None, first))
        table.append(rows(1, 1), position=("made", first, second))
        with pytest.raises(Conflict, match="another writer moved"):
            table.append(rows(1, 1), position=("made", first, second))

    def test_refuses_an_unknown_column(self, table: LakeTable) -> None:
        with pytest.raises(CallError, match="unknown column more"):
            table.append(rows(1, 1).append_column("more", pa.array([1])))

    def test_refuses_a_value_that_does_not_fit(self, table: LakeTable) -> None:
        with pytest.raises(CallError, match="'x' does not fit"):
            table.append(pa.table({"x": pa.array([2**40])}))

    def test_null_partitions_and_instants_before_1970(self, table: LakeTable) -> None:
        old = datetime(1969, 12, 31, 23, tzinfo=UTC)
        table.append(pa.table({"at": pa.array([None, old], pa.timestamp("us", "UTC")), "x": [1, 2]}))
        assert sorted(table.scan().select("x").collect()["x"]) == [1, 2]
        assert table.scan().filter(pl.col("at") < datetime(1970, 1, 1, tzinfo=UTC)).collect()[
            "x"
        ].to_list() == [2]


class TestReplace:
    def test_of_days_leaves_the_others(self, table: LakeTable) -> None:
        table.append(pa.concat_tables([rows(2, 1), rows(2, 2), rows(1, 3)]))
        table.overwrite(rows(1, 2, x=7), partitions=("at", [date(2024, 1, 1), date(2024, 1, 2)]))
        assert read_rows(table) == [(2, 7), (3, 0)]

    def test_refuses_rows_outside_the_days(self, table: LakeTable) -> None:
        table.append(rows(2, 1))
        with pytest.raises(CallError, match="outside the days"):
            table.overwrite(rows(1, 2), partitions=("at", [date(2024, 1, 1)]))
        assert read_rows(table) == [(1, 0), (1, 0)]

    def test_of_the_whole_table_sets_facts_and_properties(self, table: LakeTable) -> None:
        table.append(rows(2, 1))
        snapshot = table.overwrite(
            rows(1, 3, x=5), facts={"headrace.code": "f"}, properties={"headrace.code": "f"}
        )
        assert read_rows(table) == [(3, 5)]
        assert (snapshot.summary["headrace.code"], table.property("headrace.code")) == ("f", "f")

    def test_leaves_old_snapshots_readable(self, table: LakeTable) -> None:
        first = table.append(rows(2, 1))
        lazy = table.scan(first.id)
        table.overwrite(rows(1, 2))
        assert lazy.collect().height == 2


class TestScan:
    def test_of_an_empty_table_has_its_columns(self, table: LakeTable) -> None:
        frame = table.scan().collect()
        assert frame.schema["at"] == pl.Datetime("us", "UTC")
        assert frame.columns == SCHEMA.names

    def test_of_evolved_columns(self, shop_lake: Lake, table: LakeTable) -> None:
        first = table.append(rows(1, 1, x=3))
        shop_lake.ensure("events", pa.schema([("x", pa.int64()), ("more", pa.float64())]))
        table.append(rows(1, 2).set_column(2, "x", pa.array([2**40])).append_column("more", pa.array([1.5])))
        frame = table.scan().sort("at").collect()
        assert frame.select("x", "more").rows() == [(3, None), (2**40, 1.5)]
        assert "more" not in table.scan(first.id).collect_schema()

    def test_of_a_missing_snapshot_is_an_error(self, table: LakeTable) -> None:
        table.append(rows(1, 1))
        with pytest.raises(CallError, match="snapshot 5 does not exist"):
            table.scan(5)


class TestTags:
    def test_name_a_snapshot(self, table: LakeTable) -> None:
        first = table.append(rows(1, 1))
        table.append(rows(1, 1))
        table.create_tag("kept", first.id)
        assert table.tags() == {"kept": first.id}
        assert table.snapshot("kept") == first
        table.remove_tag("kept")
        assert table.tags() == {}
        with pytest.raises(CallError, match="tag 'kept' does not exist"):
            table.snapshot("kept")

    def test_of_a_missing_snapshot_is_an_error(self, table: LakeTable) -> None:
        with pytest.raises(CallError, match="snapshot 5 does not exist"):
            table.create_tag("kept", 5)


LONG = "a name that is longer than the sixteen characters that a statistic keeps, "


@pytest.mark.parametrize(
    "wanted",
    [
        pl.col("x") == 3,
        pl.col("x") > 2**31,
        pl.col("x").is_null(),
        pl.col("more").is_null() & (pl.col("x") < 10),
        pl.col("name") == LONG + "2",
        pl.col("name").is_in([LONG + "1", "short"]),
        pl.col("at").is_null(),
        pl.col("at") >= datetime(2024, 1, 2, tzinfo=UTC),
        (pl.col("at") < datetime(2024, 1, 2, tzinfo=UTC)) & pl.col("_valid"),
        pl.col("at").dt.date() == date(2024, 1, 2),
        ~pl.col("_valid"),
        pl.col("more") > 1.0,
        pl.col("more").is_nan(),
    ],
    ids=str,
)
def test_filter_on_files_selects_the_same_rows_as_one_after_reading(local: Settings, wanted: pl.Expr) -> None:
    shop_lake = lake.open(local)
    table = create_table(shop_lake)
    names = pa.array([LONG + "1", LONG + "2", None])
    table.append(rows(3, 1, x=3).set_column(3, "name", names))
    table.append(rows(3, 2, x=7, valid=False).set_column(3, "name", names))
    shop_lake.ensure("events", pa.schema([("x", pa.int64()), ("more", pa.float64())]))
    wide = pa.table({"x": [2**40, 3, None], "more": [1.5, float("nan"), None], "name": ["short", LONG, None]})
    table.append(wide)
    read = table.scan().collect()
    assert read.height == 9
    filtered = table.scan().filter(wanted).collect()
    assert sorted(map(repr, filtered.rows())) == sorted(map(repr, read.filter(wanted).rows()))  # NaN too


def test_rows_are_split_by_partition(local: Settings) -> None:
    table = create_table(lake.open(local))
    mixed = pa.concat_tables([rows(2, 1 + n % 20, x=n, valid=n % 3 > 0) for n in range(60)])
    table.append(mixed)
    assert sorted(read_rows(table)) == sorted((1 + n % 20, n) for n in range(60) for _ in range(2))
    head = table.current_snapshot()
    assert head is not None
    assert table.rows_per_day("at", head.id) == {date(2024, 1, d): 6 for d in range(1, 21)}
    assert sum(table.rows_per_day("at", head.id, {"_valid": True}).values()) == 80
    for day in (3, 20):
        table.overwrite(rows(1, day, x=-1), partitions=("at", [date(2024, 1, day)]))
    assert table.scan().collect().height == 120 - 10
