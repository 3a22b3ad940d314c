"""Tables of every grain: built in steps they equal the tables built at once, and only what changed is made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import dataframely as dy
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.declare.partitioning import Partitioning, by, day, hour, month
from headrace.declare.table import Table
from headrace.kernel.errors import CallError, HeadraceError, ProjectError, Refused
from headrace.kernel.properties import LATEST_ARRIVAL
from headrace.kernel.time import micros
from headrace.lake import Lake, LakeTable
from headrace.projects.project import Project
from headrace.tables import changed
from headrace.tables.build import PartProgress, TableBuild, build_table
from headrace.tables.range import BuildRange

Arrive = Callable[..., None]
Click = tuple[datetime, int]
BEGIN = datetime(2024, 3, 30, tzinfo=UTC)  # the night of 31 March has 23 hours in Berlin; then a month ends
BERLIN = "Europe/Berlin"


def at(hours: float) -> datetime:
    return BEGIN + timedelta(hours=hours)


def declare(
    project: Project, name: str, function: Callable[..., pl.LazyFrame], *reads: str, **options: object
) -> None:
    """Declares a table of the project."""
    inputs = tuple(project.table(read) if read in project.tables else read for read in reads)
    place = project.table("clean").place
    project.tables[name] = Table(name=name, function=function, reads=inputs, place=place, **options)  # type: ignore[arg-type]


def copy(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows


def per_user(clicks: pl.LazyFrame) -> pl.LazyFrame:
    return clicks.group_by("user").agg(
        begin=pl.col("at").min(), clicks=pl.len().cast(pl.Int64), spent=pl.col("price").sum()
    )


def local_days(clicks: pl.LazyFrame) -> pl.LazyFrame:
    local = pl.col("at").dt.convert_time_zone(BERLIN).dt.date()
    return clicks.group_by("user", day=local).agg(clicks=pl.len().cast(pl.Int64))


def with_totals(clicks: pl.LazyFrame, users: pl.LazyFrame) -> pl.LazyFrame:
    return clicks.join(users.select("user", total="clicks"), on="user", how="left")


def declare_all(project: Project) -> list[str]:
    """Tables of every grain over `clean`, which is partitioned by day, and over each other."""
    object.__setattr__(project.table("clean"), "schema", None)
    declare(project, "hours", copy, "clean", partition_by=hour("at", before="2h"))
    declare(project, "months", copy, "hours", partition_by=month("at"))
    declare(project, "hours_of_months", copy, "months", partition_by=hour("at"))
    declare(project, "users", per_user, "clean", partition_by=by("user", parts=4))
    declare(project, "halves", copy, "users", partition_by=by("user", parts=2))
    declare(project, "local", local_days, "clean", partition_by=day("day", timezone=BERLIN))
    declare(project, "begun", copy, "users", partition_by=day("begin"))
    declare(project, "joined", with_totals, "clean", "users", partition_by=by("user", parts=4))
    return ["clean", "hours", "months", "hours_of_months", "users", "halves", "local", "begun", "joined"]


def build(project: Project, lake: Lake, *names: str, code: str = "1") -> list[TableBuild]:
    return [build_table(project, lake, project.table(name), code=code) for name in names]


def rows(lake: Lake, name: str) -> list[tuple[object, ...]]:
    frame = lake.table(name).scan().collect()
    return sorted(frame.select(sorted(frame.columns)).rows(), key=repr)


def expected(events: list[Click]) -> dict[str, list[tuple[object, ...]]]:
    """What each table holds, from its definition alone."""
    clicks = sorted(((time, 1.0 + user, user) for time, user in events), key=repr)
    users = {
        user: [(time, price) for time, price, other in clicks if other == user]
        for user in {user for _, _, user in clicks}
    }
    per_user = sorted(
        (
            (min(time for time, _ in own), len(own), sum(price for _, price in own), user)
            for user, own in users.items()
        ),
        key=repr,
    )
    days: dict[tuple[int, date], int] = {}
    for time, _, user in clicks:
        key = user, time.astimezone(ZoneInfo(BERLIN)).date()
        days[key] = days.get(key, 0) + 1
    return {
        "clean": clicks,
        "hours": clicks,
        "months": clicks,
        "hours_of_months": clicks,
        "users": per_user,
        "halves": per_user,
        "begun": per_user,
        "local": sorted(((count, day, user) for (user, day), count in days.items()), key=repr),
        "joined": sorted(((time, price, len(users[user]), user) for time, price, user in clicks), key=repr),
    }


def check(lake: Lake, names: list[str], events: list[Click]) -> None:
    wanted = expected(events)
    for name in names:
        frame = lake.table(name).scan().collect().drop("_known_at", strict=False)
        assert sorted(frame.select(sorted(frame.columns)).rows(), key=repr) == wanted[name], name


# Hours since BEGIN, and a user. Or a day whose events are all deleted.
EVENT = st.tuples(st.sampled_from([0, 1.5, 22, 23.5, 24, 46.5, 47, 70, 72, 80]).map(at), st.integers(1, 5))
STEP = st.one_of(st.lists(EVENT, min_size=1, max_size=5), st.integers(0, 3))


@settings(
    max_examples=2, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    first=st.lists(EVENT, min_size=3, max_size=6),
    steps=st.tuples(st.lists(EVENT, min_size=1, max_size=3), STEP),
)
def test_builds_in_steps_equal_the_definition_in_mixed_grains(
    project: Project,
    lake: Lake,
    clicks: LakeTable,
    arrive: Arrive,
    first: list[Click],
    steps: tuple[list[Click], list[Click] | int],
) -> None:
    names = [name for name in declare_all(project) if name not in ("halves", "hours_of_months")]
    clicks.overwrite(clicks.schema().empty_table())
    events: list[Click] = []
    for step in [first, *steps]:
        if isinstance(step, int):
            number = (BEGIN.date() - date(1970, 1, 1)).days + step
            clicks.overwrite(
                clicks.schema().empty_table(),
                partitions=(("at", "day"), [number]),
                facts={LATEST_ARRIVAL: str(micros(at(99)))},
            )
            events = [
                (time, user) for time, user in events if time.date() != BEGIN.date() + timedelta(days=step)
            ]
        else:
            arrive(*step, arrived=at(99))
            events += step
        build(project, lake, *names)
        check(lake, names, events)


def test_a_late_event_makes_only_the_partitions_that_read_it(
    project: Project, lake: Lake, arrive: Arrive
) -> None:
    names = declare_all(project)
    events = [(at(hours), user) for hours in (0, 23.5, 47) for user in range(1, 20)]
    arrive(*events, arrived=at(99))
    build(project, lake, *names)
    arrive((at(23.5), 3), arrived=at(99))  # 31 March, 00:30 in Berlin
    built = {result.name: result for result in build(project, lake, *names)}
    part = str(bucket(3, 4))
    assert {name: result.partitions for name, result in built.items()} == {
        "clean": ["2024-03-30"],
        "hours": ["2024-03-30T23", "2024-03-31T00", "2024-03-31T01"],
        "months": ["2024-03"],
        "hours_of_months": ["2024-03-30T23"],
        "users": [part],
        "halves": [str(bucket(3, 2))],
        "local": ["2024-03-31"],
        "begun": ["2024-03-30"],
        "joined": [part],
    }
    check(lake, names, [*events, (at(23.5), 3)])
    assert all(result.skipped for result in build(project, lake, *names))


def bucket(value: int, parts: int) -> int:
    """Iceberg's bucket: the 32-bit Murmur3 hash of the value's 8 bytes, without its sign, modulo the parts."""
    h, mask = 0, 0xFFFFFFFF
    for k in (value & mask, value >> 32 & mask):
        k = k * 0xCC9E2D51 & mask
        k = (k << 15 | k >> 17) & mask
        h ^= k * 0x1B873593 & mask
        h = ((h << 13 | h >> 19) * 5 + 0xE6546B64) & mask
    h ^= 8
    h = (h ^ h >> 16) * 0x85EBCA6B & mask
    h = (h ^ h >> 13) * 0xC2B2AE35 & mask
    return ((h ^ h >> 16) & 0x7FFFFFFF) % parts


def test_days_of_a_time_zone_have_23_and_25_hours(project: Project, lake: Lake, arrive: Arrive) -> None:
    declare_all(project)
    begin = datetime(2024, 3, 30, 12, tzinfo=UTC)
    arrive(*((begin + timedelta(hours=n), n % 3) for n in range(72)), arrived=at(99))
    autumn = datetime(2024, 10, 26, 12, tzinfo=UTC)
    arrive(*((autumn + timedelta(hours=n), n % 3) for n in range(48)), arrived=autumn + timedelta(days=3))
    build(project, lake, "clean", "local")
    hours = dict(lake.table("local").scan().group_by("day").agg(pl.col("clicks").sum()).collect().iter_rows())
    assert (hours[date(2024, 3, 31)], hours[date(2024, 4, 1)], hours[date(2024, 10, 27)]) == (23, 24, 25)


def test_a_key_that_is_null_is_refused_if_the_function_keeps_it(
    project: Project, lake: Lake, clicks: LakeTable
) -> None:
    declare_all(project)
    stamp = pa.timestamp("us", "UTC")
    row = {"at": pa.array([at(0)], stamp), "user": pa.array([None], pa.int64()), "_valid": pa.array([True])}
    clicks.append(pa.table({**row, "_known_at": pa.array([at(0)], stamp)}), facts={LATEST_ARRIVAL: "0"})
    build(project, lake, "clean")
    with pytest.raises(Refused, match="column 'user' is null in 1 row of 1: such a row belongs to no part"):
        build(project, lake, "users")
    assert not lake.table_exists("users")
    declare(
        project, "users", lambda clicks: per_user(clicks).drop_nulls("user"), "clean", partition_by=by("user")
    )
    assert build(project, lake, "users")[0].rows == 0


def test_a_key_of_another_type_is_refused(project: Project, lake: Lake, arrive: Arrive) -> None:
    declare_all(project)
    arrive((at(0), 1), arrived=at(99))
    build(project, lake, "clean")
    declare(
        project,
        "users",
        lambda clicks: per_user(clicks).with_columns(pl.col("user").cast(pl.String)),
        "clean",
        partition_by=by("user"),
    )
    with pytest.raises(ProjectError, match="its key 'user' is String, but Int64 in its input clean"):
        build(project, lake, "users")


def test_rows_in_other_parts_than_their_input_are_refused(project: Project, lake: Lake, arrive: Arrive) -> None:
    declare_all(project)
    arrive((at(0), 1), (at(0), 2), arrived=at(99))
    build(project, lake, "clean")
    declare(
        project,
        "users",
        lambda clicks: per_user(clicks).with_columns(pl.col("user") + 1000),
        "clean",
        partition_by=by("user"),
    )
    with pytest.raises(Refused, match=r"[12] rows? of its function in parts that are not made from") as refused:
        build(project, lake, "users")
    assert "Keep 'user' in the function as it is in the input" in str(refused.value.remedy)


def test_a_zone_needs_a_column_of_dates(project: Project, lake: Lake, arrive: Arrive) -> None:
    declare_all(project)
    arrive((at(0), 1), arrived=at(99))
    build(project, lake, "clean")
    declare(project, "local", copy, "clean", partition_by=day("at", timezone=BERLIN))
    with pytest.raises(ProjectError, match=r"by the day of 'at' in Europe/Berlin, and 'at' is .*, not a date"):
        build(project, lake, "local")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (lambda: hour("at", before="90m"), "before='90m' must be whole hours"),
        (lambda: month("at", after="1d"), "after='1d' must be a whole number of months"),
        (lambda: day("at", timezone="Mars/Base"), "timezone='Mars/Base' is not a valid time zone"),
        (lambda: by("user", parts=0), "parts=0 must be a whole number from 1 to 4,096"),
        (lambda: by(5), r"by\(5\): name the column"),
    ],
)
def test_a_wrong_partitioning_is_refused(declared: Callable[[], Partitioning], message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        declared()


@pytest.mark.parametrize(
    ("before", "after"), [(day("at"), by("user", parts=4)), (by("user"), month("at")), (month("at"), None)]
)
def test_a_changed_partitioning_makes_the_table_again_and_keeps_its_snapshots(
    project: Project, lake: Lake, arrive: Arrive, before: Partitioning, after: Partitioning | None
) -> None:
    arrive((at(0), 1), (at(30), 2), (at(50), 1), arrived=at(99))
    object.__setattr__(project.table("clean"), "schema", None)
    build(project, lake, "clean")
    declare(project, "moved", copy, "clean", partition_by=before)
    first = build(project, lake, "moved")[0]
    former = rows(lake, "moved")
    declare(project, "moved", lambda clicks: clicks.drop("price"), "clean", partition_by=after)
    second = build(project, lake, "moved", code="2")[0]
    assert (second.because, second.partitions, second.rows) == (["its partitions changed"], None, 3)
    table = lake.table("moved")
    assert "price" not in table.schema().names
    old = table.scan(first.snapshot).collect()
    assert sorted(old.select(sorted(old.columns)).rows(), key=repr) == former
    assert build(project, lake, "moved", code="2")[0].skipped
    arrive((at(1), 2), arrived=at(99))
    assert build(project, lake, "clean", "moved", code="2")[1].rows == 4
    table.rollback_to_snapshot(first.snapshot)  # as a build after the checkout of an older commit does
    assert rows(lake, "moved") == former
    assert table.partition_by() == ((before.column, before.transform),)


def test_a_column_by_which_the_table_was_partitioned_may_go(
    project: Project, lake: Lake, arrive: Arrive
) -> None:
    arrive((at(0), 1), (at(30), 2), arrived=at(99))
    object.__setattr__(project.table("clean"), "schema", None)
    build(project, lake, "clean")
    declare(project, "moved", copy, "clean", partition_by=day("at"))
    first = build(project, lake, "moved")[0]
    declare(project, "moved", lambda clicks: clicks.drop("at"), "clean", partition_by=by("user", parts=2))
    build(project, lake, "moved", code="2")
    assert lake.table("moved").scan().collect().height == 2
    assert "at" not in lake.table("moved").scan().collect().columns
    assert lake.table("moved").scan(first.snapshot).collect()["at"].sort().to_list() == [at(0), at(30)]


class TestRange:
    def test_makes_its_days_and_leaves_the_others_to_the_next_build(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        arrive(*((at(24 * n), n) for n in range(6)), arrived=at(999))
        clean = project.table("clean")
        object.__setattr__(clean, "schema", None)
        only = BuildRange(date(2024, 3, 31), date(2024, 4, 1))
        built = build_table(project, lake, clean, code="1", only=only)
        assert (built.partitions, built.rows) == (["2024-03-31", "2024-04-01"], 2)
        assert lake.table("clean").scan().collect()["user"].sort().to_list() == [1, 2]
        rest = build_table(project, lake, clean, code="1")
        assert rest.partitions == ["2024-03-30", "2024-04-02", "2024-04-03", "2024-04-04"]
        assert rest.because[0] == "a build of a range left out 4 days, 2024-03-30 to 2024-04-04"
        assert build_table(project, lake, clean, code="1").skipped
        # Also days that are up to date are made again.
        built = build_table(project, lake, clean, code="1", only=only)
        assert (built.partitions, built.rows) == (["2024-03-31", "2024-04-01"], 6)

    def test_of_new_code_is_refused_if_days_of_the_old_code_would_stay(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        arrive(*((at(24 * n), n) for n in range(3)), arrived=at(999))
        clean = project.table("clean")
        object.__setattr__(clean, "schema", None)
        build_table(project, lake, clean, code="1")
        object.__setattr__(clean, "function", lambda clicks: clicks.with_columns(price=pl.lit(0.5)))
        with pytest.raises(CallError, match="code of table clean changed, and 2024-03-30 made by the old code"):
            build_table(project, lake, clean, code="2", only=BuildRange(date(2024, 3, 31), date(2024, 4, 9)))
        assert sorted(lake.table("clean").scan().collect()["price"]) == [1.0, 2.0, 3.0]
        arrive((at(24 * 9), 9), arrived=at(999))
        # Of all days that the table has, it leaves only those that were never made.
        built = build_table(
            project, lake, clean, code="2", only=BuildRange(date(2024, 3, 30), date(2024, 4, 2))
        )
        assert (built.partitions, built.rows) == (["2024-03-30", "2024-03-31", "2024-04-01"], 3)
        assert build_table(project, lake, clean, code="2").partitions == ["2024-04-08"]
        assert list(lake.table("clean").scan().collect()["price"]) == [0.5] * 4

    def test_without_days_is_refused(self, project: Project, lake: Lake, arrive: Arrive) -> None:
        names = declare_all(project)
        arrive((at(0), 1), arrived=at(99))
        build(project, lake, *names)
        only = BuildRange(date(2024, 3, 31), date(2024, 4, 1))
        with pytest.raises(CallError, match="by the hash of 'user' into 4 parts, so it has no days"):
            build_table(project, lake, project.table("users"), code="1", only=only)
        with pytest.raises(CallError, match="clean has no days from 2024-03-31 to 2024-04-01") as refused:
            build_table(project, lake, project.table("clean"), code="1", only=only)
        assert "It has 2024-03-30." in str(refused.value.remedy)

    def test_of_a_table_that_reads_no_input_by_days_is_refused(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        declare(project, "first", lambda clicks: clicks.rename({"at": "on"}), "clean", partition_by=day("on"))
        object.__setattr__(project.table("clean"), "schema", None)
        object.__setattr__(project.table("clean"), "partition_by", None)
        arrive(*((at(24 * n), n) for n in range(3)), arrived=at(99))
        build(project, lake, "clean", "first")
        only = BuildRange(date(2024, 3, 30), date(2024, 3, 31))
        with pytest.raises(CallError, match="first reads no table by 'on', so all its rows") as refused:
            build_table(project, lake, project.table("first"), code="1", only=only)
        assert refused.value.remedy == "Build all of it: headrace build first --full"
        assert len(rows(lake, "first")) == 3

    def test_whole_makes_all_of_it(self, project: Project, lake: Lake, arrive: Arrive) -> None:
        arrive((at(0), 1), arrived=at(99))
        build(project, lake, "clean")
        built = build_table(project, lake, project.table("clean"), code="1", only=BuildRange())
        assert (built.because, built.skipped) == (["all of it was asked for"], False)


BUILDER = """
import sys
from pathlib import Path
from headrace import lake
from headrace.config.settings import load_settings
from headrace.projects.project import load_project
from headrace.tables.build import build_table

project = load_project(load_settings(Path(sys.argv[1])))
object.__setattr__(project.table("clean"), "schema", None)
build_table(project, lake.open(project.settings), project.table("clean"), code="1")
"""


def test_a_killed_build_is_continued_with_the_partitions_that_are_not_written(
    project: Project, lake: Lake, arrive: Arrive
) -> None:
    arrive(*((at(48 * n), n) for n in range(5)), arrived=at(999))  # days apart: each is a group
    killed = subprocess.run(
        [sys.executable, "-c", BUILDER, str(project.settings.root)],
        env={**os.environ, "HEADRACE_FAULT": "tables.after_part:3"},
        timeout=300,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert lake.table("clean").current_snapshot() is None  # nothing half-published
    read: list[int] = []
    clean = project.table("clean")
    object.__setattr__(clean, "schema", None)

    def count_rows(clicks: pl.LazyFrame) -> pl.LazyFrame:
        read.append(clicks.collect().height)
        return clicks.select("at", "user", "price", "_known_at")

    object.__setattr__(clean, "function", count_rows)
    steps: list[PartProgress] = []
    built = build_table(project, lake, clean, code="1", progress=steps.append)
    assert sum(read) == 2  # the other three days are written
    assert [(step.done, step.total) for step in steps] == [(3, 5), (4, 5), (5, 5)]
    assert (built.rows, sorted(lake.table("clean").scan().collect()["user"])) == (5, [0, 1, 2, 3, 4])
    assert not list(lake.folder.with_name("staged").iterdir())


def build_with_failure(project: Project, lake: Lake, user: int) -> list[int]:
    """Builds `clean`, whose function fails at this user, but no more afterwards. Returns the list to which it
    then adds the users of the rows that it reads."""
    clean = project.table("clean")
    object.__setattr__(clean, "schema", None)
    object.__setattr__(clean, "rowwise", False)
    read: list[int] = []

    def refuse_user(clicks: pl.LazyFrame) -> pl.LazyFrame:
        rows = clicks.select("at", "user", "price", "_known_at").collect()
        read.extend(rows["user"])
        if is_failing and user in rows["user"]:
            raise ValueError(f"user {user}")
        return rows.lazy()

    object.__setattr__(clean, "function", refuse_user)
    is_failing = True
    with pytest.raises(ProjectError, match=f"user {user}"):
        build_table(project, lake, clean, code="1")
    is_failing = False
    read.clear()
    return read


def test_a_build_that_fails_keeps_what_is_made_before_the_failure(
    project: Project, lake: Lake, arrive: Arrive
) -> None:
    arrive(*((at(48 * n), n) for n in range(5)), arrived=at(999))
    read = build_with_failure(project, lake, user=3)
    build_table(project, lake, project.table("clean"), code="1")
    assert (read, sorted(lake.table("clean").scan().collect()["user"])) == ([3, 4], [0, 1, 2, 3, 4])


def test_a_build_whose_files_were_deleted_makes_them_again(
    project: Project, lake: Lake, arrive: Arrive
) -> None:
    arrive((at(0), 0), (at(48), 1), arrived=at(999))
    build_with_failure(project, lake, user=1)
    (file,) = (lake.folder / "warehouse").rglob("clean/data/**/*.parquet")
    file.unlink()
    build_table(project, lake, project.table("clean"), code="1")
    assert sorted(lake.table("clean").scan().collect()["user"]) == [0, 1]


def test_files_of_a_killed_build_are_not_used_for_other_rows(
    project: Project, lake: Lake, arrive: Arrive
) -> None:
    arrive((at(0), 0), (at(48), 1), arrived=at(999))
    subprocess.run(
        [sys.executable, "-c", BUILDER, str(project.settings.root)],
        env={**os.environ, "HEADRACE_FAULT": "tables.after_part:2"},
        timeout=300,
        check=False,
    )
    arrive((at(1), 7), arrived=at(999))
    object.__setattr__(project.table("clean"), "schema", None)
    build(project, lake, "clean")
    assert sorted(lake.table("clean").scan().collect()["user"]) == [0, 1, 7]


class TestUniqueKeys:
    """The primary key of a schema, over all partitions."""

    class OneEach(dy.Schema):
        at = dy.Datetime(time_unit="us", time_zone="UTC")
        user = dy.Int64(primary_key=True)
        price = dy.Float64()

    @pytest.fixture
    def clean(self, project: Project) -> Table:
        clean = project.table("clean")
        object.__setattr__(clean, "schema", self.OneEach)
        return clean

    def test_a_key_in_two_days_is_refused(
        self, lake: Lake, project: Project, clean: Table, arrive: Arrive
    ) -> None:
        arrive((at(0), 1), (at(48), 1), (at(96), 2), arrived=at(99))  # the days are made apart
        with pytest.raises(Refused, match="unique user: 1 key is in several partitions") as refused:
            build(project, lake, "clean")
        assert "such as user=1" in str(refused.value.what)
        assert lake.table("clean").current_snapshot() is None

    def test_a_key_of_a_day_that_stays_is_refused(
        self, lake: Lake, project: Project, clean: Table, arrive: Arrive
    ) -> None:
        arrive((at(0), 1), (at(48), 2), arrived=at(99))
        build(project, lake, "clean")
        arrive((at(48), 1), arrived=at(99))
        with pytest.raises(Refused, match="1 key is in several partitions"):
            build(project, lake, "clean")
        assert lake.table("clean").scan().collect()["user"].sort().to_list() == [1, 2]

    def test_a_day_that_is_made_again_keeps_its_keys(
        self, lake: Lake, project: Project, clean: Table, arrive: Arrive
    ) -> None:
        arrive((at(0), 1), (at(48), 2), arrived=at(99))
        build(project, lake, "clean")
        arrive((at(48), 3), arrived=at(99))
        assert build(project, lake, "clean")[0].rows == 3


@pytest.mark.parametrize("error", [KeyError("price"), pl.exceptions.PanicException("index out of bounds")])
def test_a_function_that_fails_in_one_partition_is_named_with_it(
    project: Project, lake: Lake, arrive: Arrive, error: BaseException
) -> None:
    arrive(*((at(24 * n), n) for n in range(4)), arrived=at(99))
    build(project, lake, "clean")
    before = lake.table("clean").current_snapshot()

    def fail_on_user_2(clicks: pl.LazyFrame) -> pl.LazyFrame:
        if 2 in clicks.collect()["user"]:
            raise error
        return clicks

    declare(project, "clean", fail_on_user_2, "clicks", partition_by=day("at"))
    object.__setattr__(project.table("clean"), "reads", tuple(project.contracts.values()))
    with pytest.raises(ProjectError, match=r"clean failed: .* \(in partition 2024-04-01\)") as failed:
        build(project, lake, "clean", code="2")
    assert failed.value.remedy == (
        "headrace try clean --partition 2024-04-01 runs it alone, without publishing."
    )
    assert lake.table("clean").current_snapshot() == before


def test_an_empty_input_makes_an_empty_table(project: Project, lake: Lake, clicks: LakeTable) -> None:
    names = declare_all(project)
    clicks.append(clicks.schema().empty_table(), facts={LATEST_ARRIVAL: "0"})
    assert [result.rows for result in build(project, lake, *names)] == [0] * len(names)
    assert all(result.skipped for result in build(project, lake, *names))


def test_rows_made_of_empty_inputs_are_refused(project: Project, lake: Lake, clicks: LakeTable) -> None:
    """No partition is made from them, so they would be lost."""
    clicks.append(clicks.schema().empty_table())

    def one_row(rows: pl.LazyFrame) -> pl.LazyFrame:
        return pl.concat([rows.select("at", "user"), pl.LazyFrame({"at": [at(0)], "user": [1]})])

    declare(project, "constant", one_row, "clean", partition_by=day("at"))
    build(project, lake, "clean")
    with pytest.raises(Refused, match=r"1 row of its function .* would be lost"):
        build(project, lake, "constant")


def test_all_parts_are_made_if_too_many_rows_changed_to_compare_them(
    project: Project, lake: Lake, arrive: Arrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare_all(project)
    arrive(*((at(0), user) for user in range(9)), arrived=at(99))
    build(project, lake, "clean", "users")
    arrive((at(1), 3), arrived=at(99))
    monkeypatch.setattr(changed, "_MAX_ROWS", 18)  # the day has 9 rows before and 10 after
    built = build(project, lake, "clean", "users")[1]
    assert built.partitions is None
    assert built.because == [
        "clean changed: most of its rows changed, or the snapshot it was read at has expired"
    ]
    check(lake, ["users"], [*((at(0), user) for user in range(9)), (at(1), 3)])


@pytest.mark.parametrize(
    ("apart", "others"), [(24, r"some rows than for others \(.*\)"), (48, "2024-04-01 than for earlier ones")]
)  # hours: both days are made together, or apart
def test_a_function_that_returns_other_columns_for_a_partition_is_named_with_it(
    project: Project, lake: Lake, arrive: Arrive, apart: int, others: str
) -> None:
    declare_all(project)
    arrive((at(0), 1), (at(apart), 2), arrived=at(99))
    build(project, lake, "clean")

    def drop_price_of_user_2(clicks: pl.LazyFrame) -> pl.LazyFrame:
        return clicks.drop("price") if 2 in clicks.collect()["user"] else clicks

    declare(project, "copies", drop_price_of_user_2, "clean", partition_by=day("at"))
    with pytest.raises(ProjectError, match=f"copies returns other columns for {others}: price"):
        build(project, lake, "copies")
    assert not lake.table_exists("copies") or lake.table("copies").current_snapshot() is None


OTHER_TYPES = {  # the price is a float
    "text": lambda price: price.cast(pl.String),
    "time": lambda price: price.cast(pl.Int64).cast(pl.Datetime("us", "UTC")),
    "date": lambda price: price.cast(pl.Int32).cast(pl.Date),
    "bool": lambda price: price > 0,
    "decimal": lambda price: price.cast(pl.Decimal(10, 2)),
    "large": lambda price: price.cast(pl.Int64) + 2**60 + 1,
    "list": lambda price: pl.concat_list(price),
}


@pytest.mark.parametrize("apart", [24, 72])  # hours: both days are made together, or apart
@pytest.mark.parametrize("kind", OTHER_TYPES)
def test_another_type_in_one_partition_is_refused_where_it_would_change_values(
    project: Project, lake: Lake, arrive: Arrive, apart: int, kind: str
) -> None:
    declare_all(project)
    arrive((at(0), 1), (at(apart), 2), arrived=at(999))
    build(project, lake, "clean")

    def convert_price_of_user_2(clicks: pl.LazyFrame) -> pl.LazyFrame:
        if 2 not in clicks.collect()["user"]:
            return clicks
        return clicks.with_columns(OTHER_TYPES[kind](pl.col("price")))

    declare(project, "copies", convert_price_of_user_2, "clean", partition_by=day("at"))
    with pytest.raises(HeadraceError, match="column 'price'") as refused:
        build(project, lake, "copies")
    assert {24: "2024-03-31", 72: "2024-04-02"}[apart] in str(refused.value)
    assert not lake.table_exists("copies") or lake.table("copies").current_snapshot() is None
