"""A table of the lake: appends with a position, overwritten days, scans, tags."""

import random
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pyarrow as pa
import pytest

from headrace import lake
from headrace.config.settings import Settings
from headrace.declare.partitioning import number_of
from headrace.kernel.errors import CallError, Conflict
from headrace.kernel.position import LogPosition, SnapshotPosition
from headrace.kernel.properties import LATEST_ARRIVAL
from headrace.lake import Lake, LakeTable, tags
from headrace.lake.expiry import expire_snapshots

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

    def test_keeps_the_positions_of_another_writers_log_partitions(self, table: LakeTable) -> None:
        table.append(rows(2, 1), position=("ingest", None, START.with_offsets({0: 10})))
        table.append(rows(3, 1), position=("ingest", START, START.with_offsets({1: 4})))
        assert table.position("ingest") == START.with_offsets({0: 10, 1: 4})

    def test_without_rows_moves_only_the_position(self, table: LakeTable) -> None:
        snapshot = table.append(rows(0, 1), position=("ingest", None, START.with_offsets({0: 10})))
        assert table.position("ingest") == START.with_offsets({0: 10})
        assert snapshot.rows == 0

    def test_refuses_the_position_of_a_recreated_topic(self, table: LakeTable) -> None:
        table.append(rows(1, 1), position=("ingest", None, START.with_offsets({0: 10})))
        with pytest.raises(Conflict, match="belongs to another log"):
            table.append(rows(1, 1), position=("ingest", None, LogPosition("events", "id-2", {0: 1})))

    def test_accepts_snapshot_positions(self, table: LakeTable) -> None:
        first, second = SnapshotPosition("up", 1), SnapshotPosition("up", 2)
        table.append(rows(1, 1), position=("build", None, first))
        table.append(rows(1, 1), position=("build", first, second))
        with pytest.raises(Conflict, match="another writer moved"):
            table.append(rows(1, 1), position=("build", first, second))

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
        table.overwrite(
            rows(1, 2, x=7),
            partitions=(
                ("at", "day"),
                [number_of("day", date(2024, 1, 1)), number_of("day", date(2024, 1, 2))],
            ),
        )
        assert read_rows(table) == [(2, 7), (3, 0)]

    def test_refuses_rows_outside_the_days(self, table: LakeTable) -> None:
        table.append(rows(2, 1))
        with pytest.raises(CallError, match="outside the partitions"):
            table.overwrite(rows(1, 2), partitions=(("at", "day"), [number_of("day", date(2024, 1, 1))]))
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

    def test_stays_where_it_is_if_it_must_not_move(self, table: LakeTable) -> None:
        first, second = table.append(rows(1, 1)), table.append(rows(1, 1))
        table.create_tag("v1", first.id, move=False)
        table.create_tag("v1", first.id, move=False)
        with pytest.raises(CallError, match=f"tag 'v1' names another snapshot: {first.id}"):
            table.create_tag("v1", second.id, move=False)
        with pytest.raises(CallError, match="branch 'main' names another snapshot"):
            table.create_tag("main", first.id, move=False)
        assert table.tags() == {"v1": first.id}


class TestMoments:
    def test_name_the_snapshot_that_was_current(self, table: LakeTable) -> None:
        before = tick()
        first = table.append(rows(1, 1))
        between = tick()
        second = table.append(rows(1, 2))
        after = tick()
        table.rollback_to_snapshot(first.id)
        assert [table.snapshot(moment).id for moment in (between, after, tick())] == [
            first.id,
            second.id,
            first.id,
        ]
        with pytest.raises(CallError, match="the table had no rows yet at"):
            table.snapshot(before)
        with pytest.raises(CallError, match="has no time zone"):
            table.snapshot(datetime(2024, 1, 1))

    @pytest.mark.parametrize("seed", range(4))
    def test_never_name_another_snapshot_after_an_expiry(self, table: LakeTable, seed: int) -> None:
        choose = random.Random(seed)
        current: dict[datetime, int] = {}
        for number in range(14):
            snapshots = table.snapshots()
            if number > 2 and choose.random() < 0.25:
                table.rollback_to_snapshot(choose.choice(snapshots).id)
            elif number > 2 and choose.random() < 0.4:
                tags.remove_stale_keeps(table.catalog, table.iceberg())
                expire_snapshots(table.catalog, table.iceberg(), choose.randint(1, 3))
            else:
                snapshot = table.append(rows(1, 1))
                if choose.random() < 0.3:
                    table.create_tag(f"kept-{number}", snapshot.id)
            head = table.current_snapshot()
            assert head is not None
            current[tick()] = head.id
        answers = {moment: read_id_at(table, moment) for moment in current}
        assert {
            moment: answer for moment, answer in answers.items() if answer is not None
        }.items() <= current.items()
        assert answers[max(current)] == current[max(current)]
        assert None in answers.values()


def read_id_at(table: LakeTable, moment: datetime) -> int | None:
    """The snapshot of a moment; None if it has expired."""
    try:
        return table.snapshot(moment).id
    except CallError:
        return None


def tick() -> datetime:
    """The present moment; returns when the next millisecond has begun."""
    moment = datetime.now(UTC)
    while datetime.now(UTC) - moment < timedelta(milliseconds=2):
        pass
    return moment


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
    assert table.rows_per_partition(("at", "day"), head.id) == {
        number_of("day", date(2024, 1, d)): 6 for d in range(1, 21)
    }
    assert sum(table.rows_per_partition(("at", "day"), head.id, {"_valid": True}).values()) == 80
    for day in (3, 20):
        table.overwrite(rows(1, day, x=-1), partitions=(("at", "day"), [number_of("day", date(2024, 1, day))]))
    assert table.scan().collect().height == 120 - 10
