"""The build of a table: what is made again, what is published, what survives."""

import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from headrace.kernel.errors import CallError, Conflict, ProjectError, Refused
from headrace.lake import Lake
from headrace.projects.project import Project, load_project
from headrace.tables.build import TableBuild, build_table

Arrive = Callable[..., None]


def at(day: int, hour: float = 12) -> datetime:
    """An instant of January 2024."""
    return datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=day - 1, hours=hour)


def build(project: Project, opened: Lake, *names: str, code: str = "1") -> list[TableBuild]:
    return [build_table(project, opened, project.table(name), code=code) for name in names]


def days(*numbers: int) -> list[date]:
    return [date(2024, 1, n) for n in numbers]


def counted(opened: Lake, name: str) -> int:
    return opened.table(name).scan().collect().height


class TestIncremental:
    def test_first_build_makes_all_and_a_second_nothing(
        self, project: Project, opened: Lake, arrive: Arrive
    ) -> None:
        arrive((at(1), 1), (at(2), 2), (at(5), 1), arrived=at(6))
        first = build(project, opened, "clean", "people", "daily", "visits")
        assert [b.skipped for b in first] == [False] * 4
        assert [b.rows for b in first] == [3, 2, 3, 3]
        again = build(project, opened, "clean", "people", "daily", "visits")
        assert [b.skipped for b in again] == [True] * 4
        assert [b.snapshot for b in again] == [b.snapshot for b in first]

    def test_late_data_make_their_day_and_its_neighbours_stale(
        self, project: Project, opened: Lake, arrive: Arrive
    ) -> None:
        for n in range(1, 9):
            arrive((at(n), 1), arrived=at(10))
        build(project, opened, "clean", "people", "daily", "visits")
        arrive((at(4, 9), 2), arrived=at(10))
        clean, _, daily, visits = build(project, opened, "clean", "people", "daily", "visits")
        assert (clean.days, daily.days, visits.days) == (days(4), days(4), days(3, 4, 5))
        assert counted(opened, "daily") == 9

    def test_the_first_and_the_last_day_of_all_are_built_and_built_again(
        self, project: Project, opened: Lake, arrive: Arrive
    ) -> None:
        first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
        arrive((first, 1), (last, 1), (at(3), 1), arrived=last)
        build(project, opened, "clean", "people", "daily")
        assert counted(opened, "daily") == 3
        # Each day of visits reads its neighbours, where there are any.
        (visits,) = build(project, opened, "visits")
        assert visits.rows == 2
        assert opened.table("visits").scan().collect()["begin"].sort().to_list() == [first, at(3)]
        arrive((last, 2), arrived=last)
        *_, visits = build(project, opened, "clean", "visits")
        assert visits.days == [date(9999, 12, 30), date.max]

    def test_refused_rows_make_nothing_stale(self, project: Project, opened: Lake, arrive: Arrive) -> None:
        arrive((at(1), 1), arrived=at(3))
        build(project, opened, "clean")
        arrive((at(1), 1), arrived=at(3), valid=False)
        assert build(project, opened, "clean")[0].skipped

    def test_an_open_day_is_made_again_until_the_clock_has_passed_it(
        self, project: Project, opened: Lake, arrive: Arrive
    ) -> None:
        arrive((at(1), 1), (at(2, 22), 2), arrived=at(2, 23))
        build(project, opened, "clean", "visits")
        assert counted(opened, "visits") == 1  # the second visit may still go on
        arrive((at(8), 3), arrived=at(8, 20))
        visits = build(project, opened, "clean", "visits")[1]
        assert visits.days == days(1, 2, 3, 7, 8, 9)
        assert counted(opened, "visits") == 3
        arrive((at(8, 21), 4), arrived=at(8, 22))
        assert build(project, opened, "clean", "visits")[1].days == days(7, 8, 9)

    def test_another_code_makes_all_again(self, project: Project, opened: Lake, arrive: Arrive) -> None:
        arrive((at(1), 1), (at(2), 2), arrived=at(6))
        build(project, opened, "clean")
        built = build(project, opened, "clean", code="2")[0]
        assert (built.days, built.because) == (None, ["its code changed"])

    def test_a_changed_file_makes_what_reads_it_again(
        self, project: Project, opened: Lake, arrive: Arrive
    ) -> None:
        arrive((at(1), 1), (at(2), 2), arrived=at(6))
        build(project, opened, "clean", "people", "daily")
        (project.settings.root / "data" / "names.csv").write_text("user,name\n1,Ann\n2,Rob\n")
        clean, people, daily = build(project, opened, "clean", "people", "daily")
        assert (clean.skipped, people.because, daily.because) == (True, ["names changed"], ["people changed"])
        names = opened.table("daily").scan().sort("user").collect()["name"].to_list()
        assert names == ["Ann", "Rob"]


class TestAudit:
    def test_failing_leaves_the_table_as_it_was(self, project: Project, opened: Lake, arrive: Arrive) -> None:
        arrive((at(1), 1), arrived=at(6))
        before = build(project, opened, "clean")[0]
        arrive((at(2), -1), (at(2), 5), arrived=at(6))  # user -1 pays 0
        with pytest.raises(Refused, match=r"price: min_exclusive \(1 of 2 rows\)") as refused:
            build(project, opened, "clean")
        assert "'user': -1" in str(refused.value)
        head = opened.table("clean").current_snapshot()
        assert head is not None
        assert head.id == before.snapshot
        files = list(project.settings.place("lake", "warehouse").rglob("clean/data/*.parquet"))
        assert len(files) == 1

    def test_a_column_that_the_schema_does_not_name_is_refused(
        self, project: Project, opened: Lake, arrive: Arrive
    ) -> None:
        arrive((at(1), 1), arrived=at(6))
        wider = lambda clicks: clicks.select("at", "user", "price", cents="price", paid="price")  # noqa: E731
        object.__setattr__(project.table("clean"), "function", wider)
        with pytest.raises(Refused, match="its schema Clean does not name: cents, paid"):
            build(project, opened, "clean")
        assert not opened.table_exists("clean")


class TestUserCode:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("return clicks.select('nothing')", "clean failed: ColumnNotFoundError"),
            ("return 5", "gave a int, not a polars LazyFrame"),
            ("return clicks.select('user')", "partitioned by 'at', which its function does not give"),
            ("raise KeyError('x')", "clean failed: KeyError: 'x'"),
            ("raise pl.exceptions.PanicException('Rust')", "clean failed: PanicException: Rust"),
        ],
    )
    def test_that_fails_is_named_with_its_line(
        self, project: Project, opened: Lake, arrive: Arrive, body: str, message: str
    ) -> None:
        path = project.settings.root / "tiny" / "tables.py"
        path.write_text(path.read_text().replace('return clicks.select("at", "user", "price")', body))
        arrive((at(1), 1), arrived=at(6))
        for name in [n for n in sys.modules if n.split(".")[0] == "tiny"]:
            del sys.modules[name]
        with pytest.raises(ProjectError, match=message) as failed:
            build(load_project(project.settings), opened, "clean")
        assert "tables.py:" in str(failed.value.where)


def test_a_build_that_another_overtook_publishes_nothing(
    project: Project, opened: Lake, arrive: Arrive
) -> None:
    arrive((at(1), 1), arrived=at(6))
    build(project, opened, "people")
    table = project.table("people")

    def overtaken(rows: pl.LazyFrame) -> pl.LazyFrame:
        object.__setattr__(table, "function", lambda rows: rows.head(1))
        build(project, opened, "people", code="other")
        return rows

    object.__setattr__(table, "function", overtaken)
    with pytest.raises(Conflict, match=r"headrace\.code"):
        build(project, opened, "people", code="mine")
    assert counted(opened, "people") == 1


def test_rows_of_no_day_are_refused(project: Project, opened: Lake, arrive: Arrive) -> None:
    arrive((at(1), 1), arrived=at(6))
    object.__setattr__(project.table("clean"), "schema", None)
    nowhere = pl.lit(None, pl.Datetime("us", "UTC")).alias("at")
    object.__setattr__(project.table("clean"), "function", lambda clicks: clicks.with_columns(nowhere))
    with pytest.raises(Refused, match="1 of 1 rows have no 'at'"):
        build(project, opened, "clean")


def test_a_folder_of_files_is_a_source(project: Project, opened: Lake) -> None:
    folder = project.settings.root / "data" / "more"
    folder.mkdir()
    for name, user in (("a", 1), ("b", 2)):
        (folder / f"{name}.csv").write_text(f"user,name\n{user},{name}\n")
    object.__setattr__(project.sources["names"], "path", "data/more")
    assert build(project, opened, "people")[0].rows == 2
    pl.DataFrame({"user": [3]}).write_parquet(folder / "c.parquet")
    with pytest.raises(ProjectError, match=r"holds \.csv, \.parquet"):
        build(project, opened, "people")


def test_inputs_stay_pinned_until_the_next_build(project: Project, opened: Lake, arrive: Arrive) -> None:
    arrive((at(1), 1), arrived=at(6))
    first = build(project, opened, "clean")[0].inputs["clicks"]
    assert list(opened.table("clicks").tags().values()) == [first.snapshot_id]
    arrive((at(2), 1), arrived=at(6))
    second = build(project, opened, "clean")[0].inputs["clicks"]
    assert list(opened.table("clicks").tags().values()) == [second.snapshot_id]


def test_what_is_not_there_is_said(project: Project, opened: Lake) -> None:
    with pytest.raises(CallError, match="table 'clicks' does not exist"):
        build(project, opened, "clean")
    (project.settings.root / "data" / "names.csv").unlink()
    with pytest.raises(ProjectError, match=r"nothing at data/names\.csv"):
        build(project, opened, "people")


def test_a_column_that_changes_its_type_is_made_anew(project: Project, opened: Lake, arrive: Arrive) -> None:
    arrive((at(1), 1), arrived=at(6))
    table = project.table("people")
    build(project, opened, "people")
    object.__setattr__(table, "function", lambda rows: rows.select(pl.col("user").cast(pl.String)))
    build(project, opened, "people", code="2")
    frame = opened.table("people").scan().sort("user").collect()
    assert frame.schema == {"user": pl.String}
    assert frame["user"].to_list() == ["1", "2"]


def test_a_table_cannot_be_partitioned_otherwise(project: Project, opened: Lake, arrive: Arrive) -> None:
    arrive((at(1), 1), arrived=at(6))
    build(project, opened, "clean", "people")
    declared = project.table("clean").partition_by
    object.__setattr__(project.table("clean"), "partition_by", None)
    with pytest.raises(
        ProjectError, match="is partitioned by the day of 'at' in the lake, and now declared not at all"
    ):
        build(project, opened, "clean", code="2")
    object.__setattr__(project.table("people"), "partition_by", declared)
    with pytest.raises(
        ProjectError, match="is partitioned not at all in the lake, and now declared by the day of"
    ):
        build(project, opened, "people", code="2")
    assert counted(opened, "clean") == 1
