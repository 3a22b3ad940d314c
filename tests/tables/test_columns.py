"""Changes of a table's columns: what becomes of the table, of its old snapshots and of its data files.

The matrix is change x kind of table; that of topics and changelogs is in test_columns_of_topics.py.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from headrace.declare.partitioning import day
from headrace.declare.table import Table, table
from headrace.kernel.errors import ProjectError, Refused
from headrace.lake import Lake, LakeTable
from headrace.projects.project import Project
from headrace.tables.build import TableBuild, build_table
from headrace.tables.columns import find_missing_columns, find_table_columns
from headrace.tables.range import BuildRange

Arrive = Callable[..., None]
Function = Callable[[pl.LazyFrame], pl.LazyFrame]
BEGIN = datetime(2024, 1, 1, tzinfo=UTC)


def at(day: int) -> datetime:
    return BEGIN + timedelta(days=day - 1)


def base(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.select("at", "user", size=pl.col("user").cast(pl.Int32), kind=pl.lit("x"))


class Kind:
    """One kind of table, whose input has the columns `at` and `user`."""

    def __init__(self, name: str, project: Project, lake: Lake, arrive: Arrive) -> None:
        self.name, self.project, self.lake, self.arrive = name, project, lake, arrive
        self.rows: list[tuple[datetime, int]] = []
        self.declared = self.declare()
        self.change(base)

    def declare(self) -> Table:
        reads = (
            self.project.sources["names"] if self.name == "source" else self.project.contracts["clicks"].struct
        )
        grain = day("at") if self.name == "partitioned" else None
        return table(reads=reads, partition_by=grain)(sized)

    def change(self, function: Function, renames: dict[str, str] | None = None) -> None:
        object.__setattr__(self.declared, "function", function)
        object.__setattr__(self.declared, "renames", renames or {})

    def add(self, *events: tuple[datetime, int]) -> None:
        self.rows += events
        if self.name == "source":
            lines = "".join(f"{time:%Y-%m-%dT%H:%M:%SZ},{user}\n" for time, user in self.rows)
            (self.project.settings.root / "data" / "names.csv").write_text(f"at,user\n{lines}")
        else:
            self.arrive(*events, arrived=at(9))

    def build(self, code: str = "1") -> TableBuild:
        return build_table(self.project, self.lake, self.declared, code=code)

    @property
    def stored(self) -> LakeTable:
        return self.lake.table("sized")

    def expected(self) -> pl.DataFrame:
        """The rows by the definition: the function of all rows of the input, with the table's names."""
        frame = pl.DataFrame(self.rows, schema={"at": pl.Datetime("us", "UTC"), "user": pl.Int64}, orient="row")
        return self.declared.function(frame.lazy()).rename(self.declared.renames).sort("at").collect()

    def data_files(self) -> set[str]:
        return {task.file.file_path for task in self.stored.iceberg().scan().plan_files()}


def sized(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows


@pytest.fixture(params=["source", "partitioned", "whole"])
def kind(request: pytest.FixtureRequest, project: Project, lake: Lake, arrive: Arrive) -> Kind:
    return Kind(request.param, project, lake, arrive)


CHANGES: dict[str, Function] = {
    "add": lambda rows: base(rows).with_columns(more=pl.lit(1.5)),
    "add in front": lambda rows: base(rows).select(pl.lit(1.5).alias("more"), pl.all()),
    "widen": lambda rows: base(rows).with_columns(size=pl.col("user") + 2**40),
    "replace the type": lambda rows: base(rows).with_columns(size=pl.col("user").cast(pl.String)),
    "drop": lambda rows: base(rows).drop("size"),
    "reorder": lambda rows: base(rows).select("kind", "size", "user", "at"),
    "drop, add and reorder": lambda rows: base(rows).select("kind", "user", "at", x=pl.lit(1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_code_makes_all_rows_with_its_columns_and_old_snapshots_keep_theirs(
    kind: Kind, change: str
) -> None:
    kind.add((at(1), 1), (at(2), 2))
    kind.build()
    before, first = kind.stored.current_snapshot(), kind.expected()
    assert before is not None
    kind.change(CHANGES[change])
    built = kind.build(code="2")
    assert built.because == ["its code changed"]
    after = kind.stored.scan().sort("at").collect()
    assert_frame_equal(after, kind.expected())  # the order of the columns counts
    assert_frame_equal(kind.stored.scan(before.id).sort("at").collect(), first)
    kind.add((at(3), 3))
    kind.build(code="2")
    assert_frame_equal(kind.stored.scan().sort("at").collect(), kind.expected())


def test_a_rename_is_made_without_making_a_row(kind: Kind) -> None:
    kind.add((at(1), 1), (at(2), 2))
    kind.build()
    before, first, files = kind.stored.current_snapshot(), kind.expected(), kind.data_files()
    assert before is not None
    kind.change(base, renames={"size": "width"})
    built = kind.build()
    assert (built.partitions, built.because) == ([], ["column 'size' is 'width' now"])
    assert kind.data_files() == files
    assert_frame_equal(kind.stored.scan().sort("at").collect(), kind.expected())
    assert_frame_equal(kind.stored.scan(before.id).sort("at").collect(), first)
    assert kind.build().skipped
    kind.add((at(3), 3))
    kind.build()
    assert_frame_equal(kind.stored.scan().sort("at").collect(), kind.expected())
    kind.change(CHANGES["drop, add and reorder"])  # the name goes again, with the column
    kind.build(code="2")
    assert_frame_equal(kind.stored.scan().sort("at").collect(), kind.expected())


def test_a_rename_and_new_rows_are_one_build(kind: Kind) -> None:
    kind.add((at(1), 1))
    kind.build()
    kind.change(base, renames={"size": "width", "kind": "sort"})
    kind.add((at(2), 2))
    kind.build()
    assert_frame_equal(kind.stored.scan().sort("at").collect(), kind.expected())
    assert kind.build().skipped


def test_the_column_of_the_partitions_may_be_renamed(project: Project, lake: Lake, arrive: Arrive) -> None:
    kind = Kind("partitioned", project, lake, arrive)
    kind.add((at(1), 1), (at(2), 2))
    kind.build()
    files = kind.data_files()
    object.__setattr__(kind.declared, "partition_by", day("time"))
    kind.change(base, renames={"at": "time"})
    assert kind.build().partitions == []
    assert kind.data_files() == files
    kind.add((at(2), 3))
    assert kind.build().partitions == ["2024-01-02"]
    rows = kind.stored.scan().sort("time", "user").select("time", "user").collect().rows()
    assert rows == [(at(1), 1), (at(2), 2), (at(2), 3)]


def test_a_column_cannot_be_renamed_to_one_that_the_function_returns(kind: Kind) -> None:
    kind.add((at(1), 1))
    kind.build()
    kind.change(base, renames={"size": "kind"})
    kind.add((at(2), 2))
    with pytest.raises(ProjectError, match="returns 'kind' too; its columns are at, user"):
        kind.build()
    assert kind.stored.scan().collect().columns == ["at", "user", "size", "kind"]


def test_a_column_that_the_function_does_not_return_cannot_be_renamed(kind: Kind) -> None:
    kind.add((at(1), 1))
    kind.change(base, renames={"no": "x"})
    with pytest.raises(ProjectError, match="returns no column 'no'; its columns are at, user, size, kind"):
        kind.build()


@pytest.mark.parametrize(("renames", "what"), [({"size": "kind"}, "both are"), ({"no": "x"}, "neither is a")])
def test_a_rename_that_names_no_column_or_two_is_refused_without_rows_to_make(
    kind: Kind, renames: dict[str, str], what: str
) -> None:
    kind.add((at(1), 1))
    kind.build()
    kind.change(base, renames=renames)
    with pytest.raises(ProjectError, match=f"{what} column"):
        kind.build()
    assert kind.stored.scan().collect().columns == ["at", "user", "size", "kind"]


@pytest.mark.parametrize("again", [{"size": "breadth"}, {}, {"kind": "sort"}])
def test_a_rename_may_be_changed_or_taken_back(kind: Kind, again: dict[str, str]) -> None:
    kind.add((at(1), 1), (at(2), 2))
    kind.build()
    for renames in ({"size": "width"}, again, {"size": "width"}, {"size": "width", "kind": "sort"}):
        kind.change(base, renames=renames)
        assert not kind.build().skipped
        assert_frame_equal(kind.stored.scan().sort("at").collect(), kind.expected())
        assert kind.build().skipped


@pytest.mark.parametrize(
    "renames", [{"a": "b", "b": "c"}, {"a": "c", "b": "c"}, {"a": "a"}, {"a": ""}, {"a": 1}, ["a"], "ab"]
)
def test_renames_that_are_not_clear_are_refused(project: Project, renames: Any) -> None:
    with pytest.raises(ProjectError, match="renames="):
        table(reads=project.sources["names"], renames=renames)(sized)


def test_a_range_whose_days_have_other_columns_is_refused(project: Project, lake: Lake, arrive: Arrive) -> None:
    kind = Kind("partitioned", project, lake, arrive)
    kind.add((at(1), 1), (at(2), 2))
    kind.build()
    before = kind.stored.current_snapshot()
    kind.change(CHANGES["drop"])
    only = BuildRange(at(2).date(), at(2).date())
    with pytest.raises(
        Refused, match="a range of table sized cannot be made: column 'size' is gone"
    ) as refused:
        build_table(project, lake, kind.declared, code="1", only=only)
    assert "headrace build sized --full" in str(refused.value.remedy)
    assert kind.stored.current_snapshot() == before


def test_a_table_whose_new_days_have_other_columns_is_made_whole(
    project: Project, lake: Lake, arrive: Arrive
) -> None:
    """The columns follow the data here: `size` is text as soon as it is read beside a marked row."""
    kind = Kind("partitioned", project, lake, arrive)
    kind.add((at(1), 1))
    kind.build()
    kind.change(lambda rows: base(rows).rename({"kind": "sort"}))  # as if data decided it: the code is the same
    kind.add((at(2), 2))
    built = kind.build()
    assert built.partitions is None
    assert built.because == ["its columns changed: column 'kind' is gone, column 'sort' is new"]
    assert_frame_equal(kind.stored.scan().sort("at").collect(), kind.expected())


class TestFindMissingColumns:
    HAVE = pl.Schema({"a": pl.Int64()})
    LOST = pl.Schema({"b": pl.Int64(), "c": pl.String()})

    @pytest.mark.parametrize(
        ("function", "expected"),
        [
            (lambda rows: rows, []),
            (lambda rows: rows.select("a"), []),
            (lambda rows: rows.filter(pl.col("b") > 1).select("a", "c"), ["b", "c"]),
            (lambda rows: rows.group_by("c").agg(pl.col("b").sum()), ["b", "c"]),
            (lambda rows: rows.collect()["b"].to_frame(), ["b"]),
            (lambda rows: rows.drop("b"), ["b"]),
            (lambda rows: rows.drop("b", strict=False), []),
            (lambda rows: rows.select(pl.col("b") if "b" in rows.collect_schema() else pl.col("a")), []),
            (lambda rows: rows.select("nowhere"), []),
            (lambda rows: rows.collect().row(0), []),  # needs a row: nothing can be known
        ],
    )
    def test_finds_the_columns_that_a_function_names(self, function: Function, expected: list[str]) -> None:
        missing = find_missing_columns(function, [self.HAVE], [self.LOST])
        assert sorted(missing) == [(0, name) for name in expected]

    def test_says_which_input_loses_the_column(self) -> None:
        have, lost = (
            [pl.Schema({"k": pl.Int64, "a": pl.Int64}), pl.Schema({"k": pl.Int64})],
            pl.Schema({"b": pl.Int64}),
        )
        missing = find_missing_columns(
            lambda x, y: x.join(y, on="k").select("a", "b"), have, [pl.Schema(), lost]
        )
        assert missing == [(1, "b")]


# --- a property: in steps, in whatever order columns and rows change, equals at once ---

TABLES = ("clean", "passed", "whole")
OPERATION = st.one_of(
    st.tuples(st.just("arrive"), st.integers(1, 4), st.integers(1, 3)),
    st.tuples(st.sampled_from(["add", "drop", "rename", "reorder", "retype"]), st.integers(0, 3), st.just(0)),
)


class Sketch:
    """The columns that `clean` makes; the other tables pass them on."""

    def __init__(self) -> None:
        self.columns: dict[str, pl.DataType] = {"c0": pl.Int32(), "c1": pl.Int32()}
        self.renames: dict[str, str] = {}
        self.code = 0

    def apply(self, operation: str, number: int) -> None:
        name = f"c{number}"
        if operation == "rename" and name in self.columns:
            self.renames = {**self.renames, name: f"{name}_{len(self.renames)}"}
            return  # the function is the same
        self.code += 1
        if operation == "add":
            self.columns.setdefault(name, pl.Int32())
        elif operation == "drop" and name in self.columns and len(self.columns) > 1:
            del self.columns[name]
            self.renames.pop(name, None)
        elif operation == "reorder":
            self.columns = dict(reversed(self.columns.items()))
        elif operation == "retype" and name in self.columns:
            self.columns[name] = pl.Int64() if self.columns[name] == pl.Int32 else pl.String()

    def function(self) -> Function:
        columns = dict(self.columns)
        return lambda rows: rows.select(
            "at", *(pl.col("user").cast(dtype).alias(name) for name, dtype in columns.items())
        )


@settings(
    max_examples=1,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # an example takes a second: shrinking takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(operations=st.lists(OPERATION, min_size=2, max_size=4))
@example(operations=[("rename", 0, 0), ("drop", 1, 0), ("arrive", 3, 1)])
@example(operations=[("arrive", 1, 2), ("reorder", 0, 0), ("retype", 1, 0)])
def test_columns_and_rows_that_change_in_steps_equal_one_build(
    project: Project, lake: Lake, clicks: LakeTable, arrive: Arrive, operations: list[tuple[str, int, int]]
) -> None:
    for name in TABLES:
        if lake.table_exists(name):
            lake.drop_table(name)
    clicks.overwrite(clicks.schema().empty_table())
    read, sketch = project.contracts["clicks"].struct, Sketch()
    clean = table(reads=read, partition_by=day("at"))(named("clean"))
    passed = table(reads=clean, partition_by=day("at"))(named("passed"))
    whole = table(reads=passed)(named("whole"))

    def build_all() -> None:
        object.__setattr__(clean, "function", sketch.function())
        object.__setattr__(clean, "renames", sketch.renames)
        for declared, code in ((clean, str(sketch.code)), (passed, "1"), (whole, "1")):
            build_table(project, lake, declared, code=code)

    def frames() -> list[pl.DataFrame]:
        stored = (lake.table(name).scan().collect() for name in TABLES)
        return [frame.sort(frame.columns) for frame in stored]

    arrive((at(1), 1), (at(2), 2), arrived=at(9))
    build_all()
    for operation, number, user in operations:
        if operation == "arrive":
            arrive((at(number), user), arrived=at(9))
        else:
            sketch.apply(operation, number)
        build_all()
    in_steps = frames()
    for name in TABLES:
        lake.drop_table(name)
    build_all()
    for step, once in zip(in_steps, frames(), strict=True):
        assert_frame_equal(step, once)


def named(name: str) -> Function:
    def function(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows

    function.__name__ = name
    return function


def test_the_columns_of_a_table_are_known_without_rows(project: Project) -> None:
    clicks = pl.Schema({"at": pl.Datetime("us", "UTC"), "user": pl.Int64(), "price": pl.Float64()})
    clean = find_table_columns(project.table("clean"), [clicks])
    assert clean is not None
    assert clean.names() == ["at", "user", "price", "_known_at"]
    visits = find_table_columns(project.table("visits"), [clean])
    assert visits is not None
    assert visits.names() == ["user", "begin", "end", "clicks"]
