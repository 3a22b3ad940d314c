"""Rowwise functions that fail on rows of their input: these make no rows, are named, and stop no other row."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pytest
from tests import tiny

from headrace.declare.partitioning import day
from headrace.kernel.errors import ProjectError
from headrace.kernel.properties import FAILED_ROWS
from headrace.lake import Lake, LakeTable
from headrace.projects.project import Project, load_project
from headrace.tables import parts
from headrace.tables.build import TableBuild, build_table
from headrace.tables.failures import read_failures, spell_row
from headrace.tables.rowwise import RowwiseCalls

START = datetime(2024, 1, 1, tzinfo=UTC)
FRAGILE = """
from headrace import by

def checked(user: int) -> int:
    if user % 7 == 3:
        raise ValueError(f"user {user}")
    return user

@table(reads=Click, partition_by=day("at"), rowwise=True)
def by_day(clicks: pl.LazyFrame) -> pl.LazyFrame:
    return clicks.select("at", "_known_at", user=pl.col("user").map_elements(checked, return_dtype=pl.Int64))

@table(reads=Click, partition_by=by("user", parts=4), rowwise=True)
def by_user(clicks: pl.LazyFrame) -> pl.LazyFrame:
    return clicks.select("_known_at", user=pl.col("user").map_elements(checked, return_dtype=pl.Int64))

@table(reads=Click, rowwise=True)
def whole(clicks: pl.LazyFrame) -> pl.LazyFrame:
    return clicks.select("at", "_known_at", user=pl.col("user").map_elements(checked, return_dtype=pl.Int64))

@table(reads=by_day, rowwise=True)
def eager(rows: pl.LazyFrame) -> pl.LazyFrame:
    if 5 in rows.collect()["user"]:
        raise RuntimeError("no five")
    return rows
"""


@pytest.fixture
def fragile(project: Project) -> Project:
    path = project.settings.root / "tiny" / "tables.py"
    path.write_text(path.read_text() + FRAGILE)
    tiny.forget()
    return load_project(project.settings)


def append(clicks: LakeTable, users: list[int], first: int, days: int, seed: int) -> list[datetime]:
    """Appends clicks at offsets from `first` on, at random times; returns the times."""
    draw = random.Random(seed)
    times = [START + timedelta(days=draw.randrange(days), seconds=draw.randrange(86_400)) for _ in users]
    count = len(users)
    rows = {
        "at": pa.array(times, pa.timestamp("us", "UTC")),
        "user": pa.array(users, pa.int64()),
        "price": pa.array([1.0] * count),
        "_log_partition": pa.array([0] * count, pa.int32()),
        "_log_offset": pa.array(range(first, first + count), pa.int64()),
        "_valid": pa.array([True] * count),
    }
    clicks.append(pa.table(rows))
    return times


def users_in(lake: Lake, name: str) -> list[int]:
    return sorted(lake.table(name).scan().collect()["user"].to_list())


def build(project: Project, lake: Lake, name: str) -> TableBuild:
    return build_table(project, lake, project.table(name), code="1")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["by_day", "whole"])
def test_failing_events_are_left_out_named_and_counted_in_builds_of_any_steps(
    fragile: Project, lake: Lake, clicks: LakeTable, name: str, seed: int
) -> None:
    draw, users = random.Random(seed), list[int]()
    for step in range(3):
        new = [draw.randrange(40) for _ in range(draw.randrange(1, 60))]
        append(clicks, new, len(users), 5, step)
        users += new
        built = build(fragile, lake, name)
        assert users_in(lake, name) == sorted(user for user in users if user % 7 != 3)
        failing = {offset: user for offset, user in enumerate(users) if user % 7 == 3}
        count, examples = read_failures(lake.table(name).property(FAILED_ROWS))
        assert count == len(failing)
        for example in examples:
            place, _, error = example.partition(": ")
            offset = int(place.removeprefix("clicks@0:"))
            assert error == f"{name} failed: ValueError: user {failing[offset]}"
    assert built.left_out is not None
    assert "rows that" in built.left_out


def test_an_event_that_two_groups_of_partitions_read_is_counted_once(
    fragile: Project, lake: Lake, clicks: LakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(clicks, [1, 2, 3, 4], 0, 1, 0)
    object.__setattr__(fragile.table("by_day"), "partition_by", day("at", before="2d"))
    monkeypatch.setattr(parts, "PIECE_LIMITS", (2_000_000, 1))
    built = build(fragile, lake, "by_day")
    assert built.rows == 3
    assert read_failures(lake.table("by_day").property(FAILED_ROWS))[0] == 1
    assert str(built.left_out).startswith("left out 1 row that by_day() fails on: clicks@0:2: ")


def test_events_that_fail_no_longer_are_no_longer_counted(
    fragile: Project, lake: Lake, clicks: LakeTable
) -> None:
    append(clicks, [3, 4, 10], 0, 1, 0)
    build(fragile, lake, "by_day")
    first = lake.table("by_day").current_snapshot()
    assert first is not None
    assert read_failures(lake.table("by_day").property(FAILED_ROWS))[0] == 2
    append(clicks, [17], 3, 1, 0)
    build(fragile, lake, "by_day")
    assert read_failures(lake.table("by_day").property(FAILED_ROWS))[0] == 3
    lake.table("by_day").rollback_to_snapshot(first.id)
    assert read_failures(lake.table("by_day").property(FAILED_ROWS))[0] == 2
    object.__setattr__(fragile.table("by_day"), "function", lambda rows: rows.select("at", "user", "_known_at"))
    build_table(fragile, lake, fragile.table("by_day"), code="2")
    assert read_failures(lake.table("by_day").property(FAILED_ROWS)) == (0, [])


def test_a_failing_row_of_a_table_is_named_by_its_values(
    fragile: Project, lake: Lake, clicks: LakeTable
) -> None:
    append(clicks, [4, 5, 6], 0, 1, 0)
    build(fragile, lake, "by_day")
    built = build(fragile, lake, "eager")
    assert users_in(lake, "eager") == [4, 6]
    assert built.left_out is not None
    assert built.left_out.startswith("left out 1 row that eager() fails on: at=2024-01-01 ")
    assert built.left_out.endswith("user=5: eager failed: RuntimeError: no five")


def test_values_of_rows_are_shown_as_people_write_them() -> None:
    moment = datetime(2026, 11, 3, 10, tzinfo=UTC)
    row = {"at": moment, "on": [moment.date(), None], "of": {"price": Decimal("1.50")}, "name": "a\0'"}
    assert spell_row(row) == (
        'at=2026-11-03 10:00:00+00:00, on=[2026-11-03, None], of={price=1.50}, name="a\\x00\'"'
    )


@pytest.mark.parametrize("users", [[3], [3, 10, 17] * 30, [*range(101)] + [3] * 101])
@pytest.mark.parametrize("name", ["by_day", "by_user", "whole"])
def test_a_function_that_fails_on_most_rows_is_an_error_that_names_its_line(
    fragile: Project, lake: Lake, clicks: LakeTable, name: str, users: list[int]
) -> None:
    append(clicks, users, 0, 3, 0)
    with pytest.raises(ProjectError, match="ValueError: user") as refused:
        build(fragile, lake, name)
    assert "tables.py:" in str(refused.value.where)
    assert not lake.table_exists(name) or lake.table(name).current_snapshot() is None


@pytest.mark.parametrize("name", ["by_day", "by_user", "whole"])
def test_a_function_that_fails_on_all_rows_but_one_makes_that_one(
    fragile: Project, lake: Lake, clicks: LakeTable, name: str
) -> None:
    append(clicks, [3, 10, 4, 17, 24], 0, 3, 0)
    build(fragile, lake, name)
    assert users_in(lake, name) == [4]


def test_a_day_on_which_every_event_fails_stops_no_later_build(
    fragile: Project, lake: Lake, clicks: LakeTable
) -> None:
    append(clicks, [4], 0, 1, 0)
    build(fragile, lake, "by_day")
    append(clicks, [3, 10], 1, 1, 0)
    build(fragile, lake, "by_day")
    assert users_in(lake, "by_day") == [4]


def test_a_function_that_fails_without_rows_fails_as_a_whole(fragile: Project) -> None:
    table = fragile.table("whole")
    object.__setattr__(table, "function", lambda rows: rows.select("absent"))
    calls = RowwiseCalls(table, table.reads[0], 2)
    with pytest.raises(ProjectError, match="absent"):
        calls.call(pl.DataFrame({"user": [1, 2]}))
    assert calls.failed == []


def test_rows_for_which_a_function_returns_other_columns_are_refused(fragile: Project) -> None:
    table = fragile.table("whole")

    def function(rows: pl.LazyFrame) -> pl.LazyFrame:
        users = rows.collect()["user"].to_list()
        if users == [1, 2]:
            raise ValueError("together")
        return rows.rename({"user": f"user_{len(users) and users[0]}"})

    object.__setattr__(table, "function", function)
    with pytest.raises(
        ProjectError, match="whole returns other columns for some rows than for others: user_1, user_2"
    ):
        RowwiseCalls(table, table.reads[0], 2).call(pl.DataFrame({"user": [1, 2]}))


def test_the_stored_failures_are_small(fragile: Project, lake: Lake, clicks: LakeTable) -> None:
    append(clicks, [*range(400)], 0, 1, 0)
    build(fragile, lake, "by_day")
    stored = json.loads(str(lake.table("by_day").property(FAILED_ROWS)))
    assert {day: (entry[0], len(entry)) for day, entry in stored.items()} == {"2024-01-01": (57, 4)}
