"""The build of a table: which days it makes, what it publishes, what a failure leaves."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from tests import tiny

from headrace.declare.partitioning import by
from headrace.kernel.errors import CallError, Conflict, ProjectError, Refused
from headrace.lake import Lake, LakeTable
from headrace.projects.project import Project, load_project
from headrace.tables.build import TableBuild, build_table

Arrive = Callable[..., None]


def at(day: int, hour: float = 12) -> datetime:
    """An instant of January 2024."""
    return datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=day - 1, hours=hour)


def build(project: Project, lake: Lake, *names: str, code: str = "1") -> list[TableBuild]:
    return [build_table(project, lake, project.table(name), code=code) for name in names]


def days(*numbers: int) -> list[str]:
    return [f"2024-01-{n:02}" for n in numbers]


def count_rows(lake: Lake, name: str) -> int:
    return lake.table(name).scan().collect().height


def test_whole_numbers_of_128_bits_are_refused_with_their_column(project: Project, lake: Lake) -> None:
    wide = pl.col("user").cast(pl.Int128)
    for columns in ({"user": wide}, {"user": pl.concat_list(wide)}):
        object.__setattr__(
            project.table("people"), "function", lambda rows, columns=columns: rows.select(**columns)
        )
        with pytest.raises(ProjectError, match=r"cannot be stored in a table: user is (List\()?Int128"):
            build(project, lake, "people")


class TestIncremental:
    def test_the_first_build_makes_everything_and_the_second_nothing(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        arrive((at(1), 1), (at(2), 2), (at(5), 1), arrived=at(6))
        first = build(project, lake, "clean", "people", "daily", "visits")
        assert [b.skipped for b in first] == [False] * 4
        assert [b.rows for b in first] == [3, 2, 3, 3]
        again = build(project, lake, "clean", "people", "daily", "visits")
        assert [b.skipped for b in again] == [True] * 4
        assert [b.snapshot for b in again] == [b.snapshot for b in first]

    def test_late_rows_make_their_day_and_its_neighbours_stale(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        for n in range(1, 9):
            arrive((at(n), 1), arrived=at(10))
        build(project, lake, "clean", "people", "daily", "visits")
        arrive((at(4, 9), 2), arrived=at(10))
        clean, _, daily, visits = build(project, lake, "clean", "people", "daily", "visits")
        assert (clean.partitions, daily.partitions, visits.partitions) == (days(4), days(4), days(3, 4, 5))
        assert count_rows(lake, "daily") == 9

    def test_the_first_and_the_last_day_of_the_calendar_are_built_and_rebuilt(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
        arrive((first, 1), (last, 1), (at(3), 1), arrived=last)
        build(project, lake, "clean", "people", "daily")
        assert count_rows(lake, "daily") == 3
        # Each day of visits reads its neighbours, where there are any.
        (visits,) = build(project, lake, "visits")
        assert visits.rows == 2
        assert lake.table("visits").scan().collect()["begin"].sort().to_list() == [first, at(3)]
        arrive((last, 2), arrived=last)
        *_, visits = build(project, lake, "clean", "visits")
        assert visits.partitions == ["9999-12-30", "9999-12-31"]

    def test_refused_events_make_nothing_stale(self, project: Project, lake: Lake, arrive: Arrive) -> None:
        arrive((at(1), 1), arrived=at(3))
        build(project, lake, "clean")
        arrive((at(1), 1), arrived=at(3), valid=False)
        assert build(project, lake, "clean")[0].skipped

    def test_a_day_is_rebuilt_until_the_clock_has_passed_it(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        arrive((at(1), 1), (at(2, 22), 2), arrived=at(2, 23))
        build(project, lake, "clean", "visits")
        assert count_rows(lake, "visits") == 1  # the second visit may not have ended
        arrive((at(8), 3), arrived=at(8, 20))
        visits = build(project, lake, "clean", "visits")[1]
        assert visits.partitions == days(1, 2, 3, 7, 8, 9)
        assert count_rows(lake, "visits") == 3
        arrive((at(8, 21), 4), arrived=at(8, 22))
        assert build(project, lake, "clean", "visits")[1].partitions == days(7, 8, 9)

    def test_changed_code_rebuilds_the_whole_table(self, project: Project, lake: Lake, arrive: Arrive) -> None:
        arrive((at(1), 1), (at(2), 2), arrived=at(6))
        build(project, lake, "clean")
        built = build(project, lake, "clean", code="2")[0]
        assert (built.partitions, built.because) == (None, ["its code changed"])

    def test_a_changed_file_rebuilds_its_readers(self, project: Project, lake: Lake, arrive: Arrive) -> None:
        arrive((at(1), 1), (at(2), 2), arrived=at(6))
        build(project, lake, "clean", "people", "daily")
        (project.settings.root / "data" / "names.csv").write_text("user,name\n1,Ann\n2,Rob\n")
        clean, people, daily = build(project, lake, "clean", "people", "daily")
        assert (clean.skipped, people.because, daily.because) == (True, ["names changed"], ["people changed"])
        names = lake.table("daily").scan().sort("user").collect()["name"].to_list()
        assert names == ["Ann", "Rob"]


class TestAudit:
    def test_a_refusal_leaves_the_table_unchanged(self, project: Project, lake: Lake, arrive: Arrive) -> None:
        arrive((at(1), 1), arrived=at(6))
        before = build(project, lake, "clean")[0]
        arrive((at(2), -1), (at(2), 5), arrived=at(6))  # user -1 pays 0
        with pytest.raises(Refused, match=r"price: min_exclusive \(1 of 2 rows\)") as refused:
            build(project, lake, "clean")
        assert "'user': -1" not in str(refused.value)  # errors go to logs and lineage
        assert "headrace check tables clean" in str(refused.value)
        (row,) = lake.table("headrace_failing_clean").scan().collect().to_dicts()
        assert (row["user"], row["_rule"]) == (-1, "price: min_exclusive")
        head = lake.table("clean").current_snapshot()
        assert head is not None
        assert head.id == before.snapshot
        files = list(project.settings.place("lake", "warehouse").rglob("clean/data/*.parquet"))
        assert len(files) == 1

    def test_a_column_that_the_schema_lacks_is_refused(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        arrive((at(1), 1), arrived=at(6))
        wider = lambda clicks: clicks.select("at", "user", "price", "_known_at", cents="price", paid="price")  # noqa: E731
        object.__setattr__(project.table("clean"), "function", wider)
        with pytest.raises(Refused, match="its schema Clean lacks: cents, paid"):
            build(project, lake, "clean")
        assert not lake.table_exists("clean")


class TestUserCode:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("return clicks.select('nothing')", "clean failed: ColumnNotFoundError"),
            ("return 5", "returned int, not a polars LazyFrame"),
            ("return clicks.select('user')", "partitioned by 'at', which its function does not return"),
            ("raise KeyError('x')", "clean failed: KeyError: 'x'"),
            ("raise SystemExit(3)", "clean failed: SystemExit: 3"),
            ("raise pl.exceptions.PanicException('Rust')", "clean failed: PanicException: Rust"),
        ],
    )
    def test_an_error_names_its_line(
        self, project: Project, lake: Lake, arrive: Arrive, body: str, message: str
    ) -> None:
        path = project.settings.root / "tiny" / "tables.py"
        path.write_text(
            path.read_text().replace('return clicks.select("at", "user", "price", "_known_at")', body)
        )
        arrive((at(1), 1), arrived=at(6))
        tiny.forget()
        with pytest.raises(ProjectError, match=message) as failed:
            build(load_project(project.settings), lake, "clean")
        assert "tables.py:" in str(failed.value.where)


def test_a_build_publishes_nothing_if_another_has_committed(
    project: Project, lake: Lake, arrive: Arrive
) -> None:
    arrive((at(1), 1), arrived=at(6))
    build(project, lake, "people")
    table = project.table("people")

    def run_another_build(rows: pl.LazyFrame) -> pl.LazyFrame:
        object.__setattr__(table, "function", lambda rows: rows.head(1))
        build(project, lake, "people", code="other")
        return rows

    object.__setattr__(table, "function", run_another_build)
    with pytest.raises(Conflict, match=r"headrace\.code"):
        build(project, lake, "people", code="mine")
    assert count_rows(lake, "people") == 1


def test_rows_without_a_day_are_refused(project: Project, lake: Lake, arrive: Arrive) -> None:
    arrive((at(1), 1), arrived=at(6))
    object.__setattr__(project.table("clean"), "schema", None)
    nowhere = pl.lit(None, pl.Datetime("us", "UTC")).alias("at")
    object.__setattr__(project.table("clean"), "function", lambda clicks: clicks.with_columns(nowhere))
    with pytest.raises(Refused, match="column 'at' is null in 1 row of 1"):
        build(project, lake, "clean")


def test_a_folder_of_files_is_a_source(project: Project, lake: Lake) -> None:
    folder = project.settings.root / "data" / "more"
    folder.mkdir()
    for name, user in (("a", 1), ("b", 2)):
        (folder / f"{name}.csv").write_text(f"user,name\n{user},{name}\n")
    object.__setattr__(project.sources["names"], "path", "data/more")
    assert build(project, lake, "people")[0].rows == 2
    pl.DataFrame({"user": [3]}).write_parquet(folder / "c.parquet")
    with pytest.raises(ProjectError, match=r"holds \.csv, \.parquet"):
        build(project, lake, "people")


def test_inputs_are_pinned_until_the_next_build(project: Project, lake: Lake, arrive: Arrive) -> None:
    arrive((at(1), 1), arrived=at(6))
    first = build(project, lake, "clean")[0].inputs["clicks"]
    assert list(lake.table("clicks").tags().values()) == [first.snapshot_id]
    arrive((at(2), 1), arrived=at(6))
    second = build(project, lake, "clean")[0].inputs["clicks"]
    assert list(lake.table("clicks").tags().values()) == [second.snapshot_id]


def test_a_missing_input_is_named(project: Project, lake: Lake) -> None:
    with pytest.raises(CallError, match="table 'clicks' does not exist"):
        build(project, lake, "clean")
    (project.settings.root / "data" / "names.csv").unlink()
    with pytest.raises(ProjectError, match=r"'names' has no files at data/names\.csv"):
        build(project, lake, "people")


def test_a_column_may_change_its_type(project: Project, lake: Lake, arrive: Arrive) -> None:
    arrive((at(1), 1), arrived=at(6))
    table = project.table("people")
    build(project, lake, "people")
    object.__setattr__(table, "function", lambda rows: rows.select(pl.col("user").cast(pl.String)))
    build(project, lake, "people", code="2")
    frame = lake.table("people").scan().sort("user").collect()
    assert frame.schema == {"user": pl.String}
    assert frame["user"].to_list() == ["1", "2"]


class TestChangedFiles:
    """What a table of files becomes when the files change and the code does not."""

    @pytest.fixture
    def people(self, project: Project, lake: Lake) -> LakeTable:
        object.__setattr__(project.table("people"), "function", lambda rows: rows)
        write(project, "user,name,height\n1,Ann,1.5\n2,Bob,\n")
        build(project, lake, "people")
        return lake.table("people")

    def test_new_columns_arrive_and_old_snapshots_keep_theirs(
        self, project: Project, lake: Lake, people: LakeTable
    ) -> None:
        first = people.scan().sort("user").collect()
        people.create_tag("v1", people.snapshots()[-1].id)
        write(project, "user,name,height,has_phone\n1,Ann,1.75,true\n3,Cid,1.6,\n")
        built = build(project, lake, "people")[0]
        assert built.because == ["names changed"]
        assert people.scan().sort("user").collect().to_dict(as_series=False) == {
            "user": [1, 3],
            "name": ["Ann", "Cid"],
            "height": [1.75, 1.6],
            "has_phone": [True, None],
        }
        assert_frame_equal(people.scan(people.snapshot("v1").id).sort("user").collect(), first)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                "user,name,height\n1,Ann,n/a\n2,Bob,1.8\n",
                "column 'height' of table people is double, and would become",
            ),
            (
                "user,name,height\n1,Ann,\n2,Bob,\n",
                "column 'height' of table people is double, and would become",
            ),
            (
                "user,name,height\nA1,Ann,1.5\n",
                "column 'user' of table people is long, and would become string",
            ),
            ("user,name,size\n1,Ann,1.5\n", "column 'height' of table people is gone"),
            ("user,name,height\n", "table people would lose all its 2 rows"),
        ],
    )
    def test_a_lost_column_or_type_is_refused(
        self, project: Project, lake: Lake, people: LakeTable, content: str, message: str
    ) -> None:
        before = people.current_snapshot()
        write(project, content)
        with pytest.raises(Refused, match=message) as refused:
            build(project, lake, "people")
        assert str(refused.value.where).startswith("data/names.csv (source 'names' at ")
        assert "tables.py:" in str(refused.value.where)
        assert people.current_snapshot() == before
        assert people.schema().names == ["user", "name", "height"]
        built = build(project, lake, "people", code="2")[0]  # whoever means it changes the code
        assert built.because == ["its code changed"]
        assert set(people.schema().names) == set(content.partition("\n")[0].split(","))

    def test_a_partitioned_table_keeps_its_rows_if_its_file_is_emptied(
        self, project: Project, lake: Lake, people: LakeTable
    ) -> None:
        object.__setattr__(project.table("people"), "partition_by", by("user", parts=4))
        build(project, lake, "people", code="2")
        before = people.current_snapshot()
        write(project, "user,name,height\n")
        with pytest.raises(Refused, match="table people would lose all its 2 rows"):
            build(project, lake, "people", code="2")
        assert people.current_snapshot() == before

    def test_a_renamed_column_is_named_with_its_new_name(
        self, project: Project, lake: Lake, people: LakeTable
    ) -> None:
        write(project, "user,name,Height\n1,Ann,1.5\n")
        with pytest.raises(Refused) as refused:
            build(project, lake, "people")
        assert str(refused.value.remedy).startswith("Is it 'Height' now? Correct the header of the file")

    def test_a_table_of_a_changed_table_may_lose_a_column(
        self, project: Project, lake: Lake, people: LakeTable, arrive: Arrive
    ) -> None:
        arrive((at(1), 1), arrived=at(6))
        build(project, lake, "clean", "daily")
        assert lake.table("daily").schema().names == ["user", "day", "clicks", "spent", "name", "height"]
        object.__setattr__(project.table("people"), "function", lambda rows: rows.drop("height"))
        built = build(project, lake, "people", code="2") + build(project, lake, "daily")
        assert built[1].because == ["people changed"]
        assert lake.table("daily").schema().names == ["user", "day", "clicks", "spent", "name"]


def write(project: Project, content: str) -> None:
    (project.settings.root / "data" / "names.csv").write_text(content)
