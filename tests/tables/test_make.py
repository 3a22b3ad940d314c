"""Each row of a table with days is kept, or the build is refused: no row is dropped silently."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.declare.partitioning import day, number_of
from headrace.declare.place import Place
from headrace.declare.table import Table
from headrace.kernel.errors import ProjectError, Refused
from headrace.kernel.position import SnapshotPosition
from headrace.lake import Lake
from headrace.projects.project import Project
from headrace.tables.build import build_table
from headrace.tables.make import make_partitions
from headrace.tables.plan import RebuildPlan
from headrace.tables.read import TableInput

Arrive = Callable[..., None]
BEGIN = number_of("day", date(2024, 1, 1))
# An input row: its day, and by how many days the row made from it is later.
ROWS = st.lists(st.tuples(st.integers(0, 9), st.integers(-2, 2)), min_size=1, max_size=12)


def of_day(number: int) -> datetime:
    return datetime(2024, 1, 1, 12, tzinfo=UTC) + timedelta(days=number)


def shift(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.select(pl.col("at") + pl.duration(days="by"), "by")


def groups(days: set[int]) -> list[list[int]]:
    """Groups of neighbouring days, of four days at most."""
    runs: list[list[int]] = []
    for next_day in sorted(days):
        if runs and next_day - runs[-1][-1] == 1 and len(runs[-1]) < 4:
            runs[-1].append(next_day)
        else:
            runs.append([next_day])
    return runs


def make(table: Table, rows: list[tuple[int, int]], changed: set[int]) -> list[tuple[datetime, int]]:
    """The rows of the days that read any of `changed`, as the build makes them."""
    partition = table.partition_by
    assert partition is not None
    frame = pl.DataFrame(
        {"at": [of_day(n) for n, _ in rows], "by": [by for _, by in rows]},
        schema={"at": pl.Datetime("us", "UTC"), "by": pl.Int64},
    )
    numbers = pl.col("at").dt.date().cast(pl.Int32)
    counts: Mapping[int, int] = dict(frame.group_by(numbers).len().iter_rows())
    source = TableInput("rows", SnapshotPosition("rows", 1), "at")
    stale = sorted(partition.spread(changed))
    plan = RebuildPlan("shifted", stale, False, [], [source], None, {}, dict(counts))
    frames = [
        make_partitions(table, partition, plan, [frame.lazy()], {}, group) for group in groups(set(stale))
    ]
    return sorted(pl.concat(frames).rows())


@settings(max_examples=150, deadline=None)
@given(
    rows=ROWS, before=st.integers(0, 2), after=st.integers(0, 2), rowwise=st.booleans(), cut=st.integers(0, 12)
)
def test_every_row_is_kept_or_the_build_is_refused(
    rows: list[tuple[int, int]], before: int, after: int, rowwise: bool, cut: int
) -> None:
    partition = day("at", before=f"{before}d", after=f"{after}d")
    table = Table(
        name="shifted",
        function=shift,
        reads=("rows",),
        place=Place("t.py", 1),
        partition_by=partition,
        rowwise=rowwise,
    )
    days = {BEGIN + n for n, _ in rows}
    expected = sorted((of_day(n + by), by) for n, by in rows)
    if any(not -after <= by <= before for _, by in rows):
        with pytest.raises(Refused, match="would be lost"):
            make(table, rows, days)
        return
    assert make(table, rows, days) == expected
    # In steps: the later rows rebuild their days; the other days stay as the first step made them.
    first, later = rows[:cut], rows[cut:]
    stale = {BEGIN + n for n, _ in later}
    rebuilt = partition.spread(stale)
    unchanged = [
        row
        for row in (make(table, first, {BEGIN + n for n, _ in first}) if first else [])
        if number_of("day", row[0]) not in rebuilt
    ]
    assert sorted(unchanged + (make(table, rows, stale) if later else [])) == expected


def change(project: Project, name: str, function: Callable[..., pl.LazyFrame], **fields: object) -> None:
    table = project.table(name)
    for field, value in {"function": function, "schema": None, **fields}.items():
        object.__setattr__(table, field, value)


@pytest.mark.parametrize("rowwise", [True, False])
def test_rows_on_the_day_after_their_input_are_refused_with_a_remedy(
    project: Project, lake: Lake, arrive: Arrive, rowwise: bool
) -> None:
    def end_of_day(clicks: pl.LazyFrame) -> pl.LazyFrame:
        return clicks.select(pl.col("at").dt.truncate("1d") + timedelta(days=1), "user", "_known_at")

    arrive((of_day(0), 1), (of_day(0), 2), (of_day(1), 3), arrived=of_day(5))
    change(project, "clean", end_of_day, rowwise=rowwise)
    with pytest.raises(
        Refused, match=r"3 rows .* \(0 rows would be kept\): 2024-01-02 \(2\), 2024-01-03"
    ) as refused:
        build_table(project, lake, project.table("clean"), code="1")
    assert 'partition_by=day("at", before="1d")' in str(refused.value.remedy)
    assert not lake.table_exists("clean")

    change(project, "clean", end_of_day, rowwise=rowwise, partition_by=day("at", before="1d"))
    assert build_table(project, lake, project.table("clean"), code="2").rows == 3
    arrive((of_day(1), 4), arrived=of_day(5))
    built = build_table(project, lake, project.table("clean"), code="2")
    assert (built.partitions, built.rows) == (["2024-01-02", "2024-01-03"], 4)

    arrive((of_day(2), 5), arrived=of_day(5))
    change(
        project,
        "clean",
        lambda clicks: clicks.select(pl.col("at") + timedelta(days=2), "_known_at"),
        rowwise=rowwise,
    )
    with pytest.raises(Refused, match="would be lost") as incremental:
        build_table(project, lake, project.table("clean"), code="2")
    assert 'before="2d"' in str(incremental.value.remedy)
    assert lake.table("clean").scan().collect().height == 4


def test_rows_of_an_input_without_days_are_not_dropped(project: Project, lake: Lake, arrive: Arrive) -> None:
    def every_person(clicks: pl.LazyFrame, people: pl.LazyFrame) -> pl.LazyFrame:
        return people.select("user", day=pl.lit(of_day(3)))

    arrive((of_day(0), 1), arrived=of_day(5))
    for name in ("clean", "people"):
        build_table(project, lake, project.table(name), code="1")
    change(project, "daily", every_person)
    with pytest.raises(Refused, match=r"2 rows .* would be lost") as refused:
        build_table(project, lake, project.table("daily"), code="1")
    assert "If they come from people, which is read whole" in str(refused.value.remedy)


UNFIT_FRAMES: dict[str, Callable[[pl.LazyFrame], pl.LazyFrame]] = {
    "one more": lambda rows: rows.with_columns(more=1),
    "another name": lambda rows: rows.rename({"user": "client"}),
    "another type": lambda rows: rows.with_columns(pl.col("user").cast(pl.String)),
}


@pytest.mark.parametrize("is_eager", [False, True])
@pytest.mark.parametrize("kind", UNFIT_FRAMES)
def test_frames_that_do_not_fit_in_one_partition_are_refused_with_a_remedy(
    project: Project, lake: Lake, arrive: Arrive, kind: str, is_eager: bool
) -> None:
    def join_frames(clicks: pl.LazyFrame) -> pl.LazyFrame:
        rows = clicks.collect()
        other = UNFIT_FRAMES[kind](rows.lazy()).collect() if 2 in rows["user"] else rows
        frames = (rows, other) if is_eager else (rows.lazy(), other.lazy())
        return pl.concat(frames).lazy()

    arrive((of_day(0), 1), (of_day(1), 2), arrived=of_day(5))
    build_table(project, lake, project.table("clean"), code="1")
    object.__setattr__(project.table("daily"), "function", lambda clicks, _: join_frames(clicks))
    object.__setattr__(project.table("daily"), "partition_by", day("at"))
    build_table(project, lake, project.table("people"), code="1")
    with pytest.raises(ProjectError, match=r"daily failed: (.|\n)*\(in partition 2024-01-02\)") as refused:
        build_table(project, lake, project.table("daily"), code="1")
    first, second = str(refused.value.remedy).split("\n")
    assert first.startswith("The frames of a pl.concat must have the same columns, of the same types")
    assert second == "headrace try daily --partition 2024-01-02 runs it alone, without publishing."


def test_the_partition_column_must_be_a_date_or_a_time(project: Project, lake: Lake, arrive: Arrive) -> None:
    arrive((of_day(0), 1), arrived=of_day(5))
    change(project, "clean", lambda clicks: clicks.select(at="user"))
    with pytest.raises(ProjectError, match="which is Int64, neither a date nor a time"):
        build_table(project, lake, project.table("clean"), code="1")


def test_the_first_and_the_last_day_of_the_calendar_have_no_neighbours(
    project: Project, lake: Lake, arrive: Arrive
) -> None:
    first, last = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, tzinfo=UTC)
    arrive((first, 1), (last, 2), arrived=of_day(5))
    for name in ("clean", "visits"):
        build_table(project, lake, project.table(name), code="1")
    assert lake.table("clean").scan().collect()["at"].sort().to_list() == [first, last]
