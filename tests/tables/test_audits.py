"""Audits: what they find in whole tables and in builds of some partitions, and what a failure leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import dataframely as dy
import polars as pl
import pytest
from tests.lineage.conformance import make_event_check

from headrace.config.settings import load_settings
from headrace.declare.audits import (
    Audit,
    References,
    Severity,
    fresh_within,
    references,
    rows_like_before,
    satisfies,
)
from headrace.declare.partitioning import by, day
from headrace.declare.reserved import FAILING_ROW_COLUMNS
from headrace.declare.table import Table, table
from headrace.kernel.errors import CallError, ProjectError, Refused
from headrace.kernel.position import Position, SnapshotPosition
from headrace.kernel.run import RunEvent, record_with
from headrace.lake import Lake
from headrace.lineage.event import copy_event, openlineage_event
from headrace.lineage.names import Names
from headrace.projects.project import Project, load_project
from headrace.tables.audits.port import MAX_FAILING_ROWS, AuditScope, RuleFailure
from headrace.tables.audits.references import check_references
from headrace.tables.audits.report import AuditReport, failing_table, read_report
from headrace.tables.audits.rules import group_rules
from headrace.tables.audits.run import _AUDITS, check_freshness_now
from headrace.tables.build import TableBuild, build_table

Arrive = Callable[..., None]


def at(day: int, hour: float = 12) -> datetime:
    """An instant of January 2024."""
    return datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=day - 1, hours=hour)


def declare(project: Project, name: str, *audits: Audit, **changes: Any) -> None:
    """Gives a table of the project other audits, or another schema or partitioning."""
    for field, value in {"audits": audits, **changes}.items():
        object.__setattr__(project.table(name), field, value)


def build(project: Project, lake: Lake, name: str, *, code: str = "1", audits: str = "a") -> TableBuild:
    return build_table(project, lake, project.table(name), code=code, audits=audits)


def write_people(project: Project, *users: int) -> None:
    rows = "".join(f"{user},Name{user}\n" for user in users)
    (project.settings.root / "data" / "names.csv").write_text(f"user,name\n{rows}")


def users_in(lake: Lake, name: str) -> list[int]:
    return sorted(lake.table(name).scan().collect()["user"].to_list())


def failing_users(lake: Lake, name: str) -> list[int]:
    rows = lake.table(failing_table(name)).scan().collect()
    return sorted(rows["user"].to_list()) if rows.height else []


def report_of(lake: Lake, name: str) -> AuditReport:
    report = read_report(lake, name)
    assert report is not None
    return report


class TestReferences:
    def test_rows_without_a_key_are_refused_and_kept(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        declare(project, "clean", references("user", "people"))
        arrive((at(1), 1), (at(1), 2), arrived=at(6))
        build(project, lake, "people")
        good = build(project, lake, "clean")
        arrive((at(2), 2), (at(2), 7), (at(3), 8), arrived=at(6))
        with pytest.raises(Refused, match=r"2 rows have a value that is not a key of people, such as [78]"):
            build(project, lake, "clean")
        head = lake.table("clean").current_snapshot()
        assert head is not None
        assert head.id == good.snapshot
        kept = lake.table(failing_table("clean")).scan().sort("user").collect()
        assert kept["user"].to_list() == [7, 8]
        assert kept["_partition"].to_list() == ["2024-01-02", "2024-01-03"]
        assert kept["_rule"].unique().to_list() == ["references user → people"]
        assert kept["price"].to_list() == [8.0, 9.0]
        assert report_of(lake, "clean").stops

    def test_a_warning_is_published_and_told_until_it_is_gone(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        declare(project, "clean", references("user", "people", severity="warn"))
        arrive((at(1), 1), (at(1), 7), arrived=at(6))
        build(project, lake, "people")
        built = build(project, lake, "clean")
        assert len(built.warnings) == 1
        assert users_in(lake, "clean") == [1, 7]
        assert failing_users(lake, "clean") == [7]
        arrive((at(2), 2), arrived=at(6))  # the day that fails is not made again, and still fails
        assert len(build(project, lake, "clean").warnings) == 1
        assert failing_users(lake, "clean") == [7]
        write_people(project, 1, 2, 7)
        build(project, lake, "people")
        assert build(project, lake, "clean").warnings == []
        assert failing_users(lake, "clean") == []
        assert report_of(lake, "clean").passed

    def test_a_key_that_the_other_table_loses_fails_rows_that_are_published(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        declare(project, "clean", references("user", "people"))
        arrive((at(1), 1), (at(1), 2), arrived=at(6))
        build(project, lake, "people")
        build(project, lake, "clean")
        write_people(project, 1)
        build(project, lake, "people")
        for _ in range(2):  # it fails until it is corrected
            with pytest.raises(Refused, match="published rows do not hold"):
                build(project, lake, "clean")
        arrive((at(2), 1), arrived=at(6))
        with pytest.raises(Refused, match="1 row has a value"):  # also when another day is made
            build(project, lake, "clean")
        write_people(project, 1, 2)
        build(project, lake, "people")
        assert build(project, lake, "clean").partitions == ["2024-01-02"]
        assert report_of(lake, "clean").passed

    def test_a_null_refers_to_nothing(self, project: Project, lake: Lake) -> None:
        (project.settings.root / "data" / "names.csv").write_text("user,name\n1,\n2,Bob\n,Cid\n")
        declare(project, "people", references("name", "people"), references(["user", "name"], "people"))
        assert build(project, lake, "people").rows == 3
        declare(project, "people", references("user", "people", key="name"))
        with pytest.raises(ProjectError, match="'user', which is Int64, with 'name' of people"):
            build(project, lake, "people", audits="b")

    def test_a_table_refers_to_itself(self, project: Project, lake: Lake) -> None:
        (project.settings.root / "data" / "names.csv").write_text("user,name\n1,2\n2,1\n3,\n")
        declare(project, "people", references("name", "people", key="user"))
        assert build(project, lake, "people").rows == 3
        (project.settings.root / "data" / "names.csv").write_text("user,name\n1,2\n3,1\n")
        with pytest.raises(Refused, match="1 row has a value that is not a key of people, such as 2"):
            build(project, lake, "people")

    def test_a_referenced_table_without_rows_is_named(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        declare(project, "clean", references("user", "people"))
        arrive((at(1), 1), arrived=at(6))
        with pytest.raises(CallError, match="table clean references 'people', which has no rows yet"):
            build(project, lake, "clean")

    def test_an_unknown_column_is_named_with_those_there_are(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        arrive((at(1), 1), arrived=at(6))
        build(project, lake, "people")
        declare(project, "clean", references("user", "people", key="id"))
        with pytest.raises(ProjectError, match="names column 'id', which table people lacks") as error:
            build(project, lake, "clean")
        assert error.value.remedy == "Its columns are: user, name."

    def test_builds_in_steps_find_what_one_build_finds(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        """Whatever was made when, the failing rows are those of the definition: users that people lacks."""
        declare(project, "clean", references("user", "people", severity="warn"))
        steps: list[tuple[tuple[int, ...], list[tuple[datetime, int]]]] = [
            ((1, 2), [(at(1), 1), (at(2), 3)]),
            ((1, 3), [(at(1, 5), 2), (at(3), 3)]),
            ((3,), []),
            ((1, 2, 3), [(at(4), 9), (at(2, 3), 1)]),
            ((9,), [(at(5), 9)]),
        ]
        for people, events in steps:
            write_people(project, *people)
            if events:
                arrive(*events, arrived=at(6))
            build(project, lake, "people")
            build(project, lake, "clean")
            expected = [user for user in users_in(lake, "clean") if user not in people]
            assert (failing_users(lake, "clean") if expected else []) == expected
            assert report_of(lake, "clean").passed == (not expected)

    def test_only_some_failing_rows_are_kept(self, project: Project, lake: Lake, arrive: Arrive) -> None:
        declare(project, "clean", references("user", "people", severity="warn"))
        count = MAX_FAILING_ROWS + 50
        arrive(*((at(1), 100 + n) for n in range(count)), arrived=at(6))
        build(project, lake, "people")
        build(project, lake, "clean")
        assert len(failing_users(lake, "clean")) == MAX_FAILING_ROWS
        report = report_of(lake, "clean")
        assert (report.kept, report.results[-1].failing) == (MAX_FAILING_ROWS, count)


class TestVolume:
    def test_a_complete_day_is_compared_with_those_before_it(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        declare(project, "clean", rows_like_before(0.5))
        for number in (1, 2, 3):
            arrive(*((at(number, 1 + hour), 1) for hour in range(10)), arrived=at(9))
        build(project, lake, "clean")  # no history: anything passes
        arrive(*((at(4, 1 + hour), 1) for hour in range(4)), arrived=at(9))
        build(project, lake, "clean")  # the newest day is still being filled
        arrive((at(5), 1), arrived=at(9))
        with pytest.raises(
            Refused, match="2024-01-04 has 4 rows, and 10 in the 3 partitions before"
        ) as refused:
            build(project, lake, "clean")
        assert "shows the failing rows" not in str(refused.value.remedy), "there are none"
        arrive((at(4, 20), 1), arrived=at(9))  # now it has 5, which is half of 10
        build(project, lake, "clean")

    def test_a_published_day_is_compared_with_itself(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        declare(project, "clean", rows_like_before(0.5))
        arrive(*((at(1, 1 + hour), 1) for hour in range(4)), (at(2), 1), arrived=at(9))
        build(project, lake, "clean")
        arrive(*((at(1, 10 + hour), 1) for hour in range(2)), arrived=at(9))
        build(project, lake, "clean")  # 4 → 6 rows
        arrive(*((at(1, 15 + hour / 9), 1) for hour in range(4)), arrived=at(9))
        with pytest.raises(Refused, match="2024-01-01 has 10 rows, and 6 are published"):
            build(project, lake, "clean")

    def test_code_that_loses_all_rows_of_a_day_is_refused(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        declare(project, "clean", rows_like_before(0.9))
        arrive((at(1), 1), (at(2), 2), (at(3), 2), arrived=at(9))
        build(project, lake, "clean")
        function = project.table("clean").function
        declare(
            project,
            "clean",
            rows_like_before(0.9),
            function=lambda clicks: function(clicks).filter(pl.col("user") == 2),
        )
        with pytest.raises(Refused, match="2024-01-01 has 0 rows, and 1 are published"):
            build(project, lake, "clean", code="2")

    def test_a_table_without_partitions_is_compared_as_a_whole(self, project: Project, lake: Lake) -> None:
        declare(project, "people", rows_like_before(0.5, severity="warn"))
        write_people(project, *range(10))
        assert build(project, lake, "people").warnings == []
        write_people(project, *range(5))
        assert build(project, lake, "people").warnings == []
        write_people(project, 1, 2)
        (warning,) = build(project, lake, "people").warnings
        assert "the table would have 2 rows, and has 5" in warning

    def test_an_empty_table_passes_the_first_time_and_a_loss_of_all_rows_does_not(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        declare(project, "clean", rows_like_before(0.5), fresh_within("1h", severity="warn"))
        arrive((at(1), 1), arrived=at(9), valid=False)
        (warning,) = build(project, lake, "clean").warnings
        assert warning.endswith("no row has a time")
        arrive((at(1), 1), arrived=at(9))
        build(project, lake, "clean", code="2")
        select = lambda clicks: clicks.select("at", "user", "price", "_known_at").head(0)  # noqa: E731
        declare(project, "clean", rows_like_before(0.5), function=select)
        with pytest.raises(Refused, match="the table would have 0 rows, and has 1"):
            build(project, lake, "clean", code="4")


class TestFreshness:
    def test_the_newest_row_must_be_recent(self, project: Project, lake: Lake, arrive: Arrive) -> None:
        now = datetime.now(UTC)
        declare(project, "clean", fresh_within("2d"))
        arrive((now - timedelta(days=4), 1), (now - timedelta(days=3), 1), arrived=now)
        with pytest.raises(Refused, match=r"the newest row is of .*, 3\.0 days ago"):
            build(project, lake, "clean")
        arrive((now - timedelta(days=1), 1), arrived=now)
        assert build(project, lake, "clean").rows == 3

    def test_how_fresh_a_table_is_is_looked_up_without_a_build(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        now = datetime.now(UTC)
        clean = project.table("clean")
        declare(project, "clean", fresh_within("2d"))
        assert check_freshness_now(lake, clean) == []
        arrive((now - timedelta(days=1), 1), arrived=now)
        build(project, lake, "clean")
        assert [result.passed for result in check_freshness_now(lake, clean)] == [True]
        declare(project, "clean", fresh_within("1h"))
        assert [result.stops for result in check_freshness_now(lake, clean)] == [True]

    def test_a_date_is_as_new_as_the_end_of_its_day(self, project: Project, lake: Lake, arrive: Arrive) -> None:
        now = datetime.now(UTC)
        declare(project, "daily", fresh_within("2d", column="day"))
        arrive((now - timedelta(hours=47), 1), arrived=now)
        build(project, lake, "clean")
        build(project, lake, "people")
        function = project.table("daily").function
        declare(
            project,
            "daily",
            fresh_within("2d", column="day"),
            function=lambda *frames: function(*frames).with_columns(pl.col("day").dt.date()),
        )
        build(project, lake, "daily")

    def test_a_column_without_times_is_named(self, project: Project, lake: Lake) -> None:
        declare(project, "people", fresh_within("2h", column="name"))
        with pytest.raises(ProjectError, match="needs a column with times, but 'name' is String"):
            build(project, lake, "people")


class Trusted(dy.Schema):
    user = dy.Int64(max=5)

    @dy.rule()
    def at_most_two_clicks(self) -> pl.Expr:
        return pl.len().over("user") <= 2


class Grouped(dy.Schema):
    at = dy.Datetime(time_unit="us", time_zone="UTC", nullable=False)
    user = dy.Int64(nullable=False)
    price = dy.Float64(nullable=False, min_exclusive=0)

    @dy.rule()
    def at_least_two_clicks(self) -> pl.Expr:
        return pl.len().over("user") >= 2


class Broken(dy.Schema):
    user = dy.Int64()

    @dy.rule()
    def broken(self) -> pl.Expr:
        return pl.col("user").map_elements(lambda user: [][user], return_dtype=pl.Boolean)


class TestRules:
    def test_which_rules_are_about_several_rows(self) -> None:
        class Mixed(dy.Schema):
            user = dy.Int64(primary_key=True)

            @dy.rule()
            def of_a_row(self) -> pl.Expr:
                return pl.col("user") > 3

            @dy.rule()
            def of_a_group(self) -> pl.Expr:
                return pl.col("user").sum().over("user") > 3

            @dy.rule()
            def of_all(self) -> pl.Expr:
                return pl.col("user").mean() > 3

        assert set(group_rules(Mixed)) == {"of_a_group", "of_all"}

    def test_a_further_schema_warns_of_rows_and_groups(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        declare(project, "clean", satisfies(Trusted, severity="warn"))
        arrive((at(1), 1), (at(1), 6), (at(2), 1), arrived=at(6))
        (warning,) = build(project, lake, "clean").warnings
        assert warning == "satisfies Trusted: user: max (1 row)"
        arrive((at(3), 1), arrived=at(6))  # the third click of user 1, two of them on days that stay
        (warning,) = build(project, lake, "clean").warnings
        assert warning == "satisfies Trusted: at_most_two_clicks (3 rows); user: max (1 row)"
        kept = lake.table(failing_table("clean")).scan().collect()
        assert sorted(kept.select("_rule", "user").iter_rows()) == [
            ("at_most_two_clicks", 1),
            ("at_most_two_clicks", 1),
            ("at_most_two_clicks", 1),
            ("user: max", 6),
        ]

    def test_a_group_rule_of_the_schema_is_decided_over_the_whole_table(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        declare(project, "clean", schema=Grouped)
        arrive((at(1), 1), (at(1, 3), 1), (at(2), 1), arrived=at(6))
        build(project, lake, "clean")
        arrive((at(3), 1), arrived=at(6))  # alone on its day, but not in the table
        assert build(project, lake, "clean").rows == 4
        arrive((at(4), 2), arrived=at(6))
        with pytest.raises(Refused, match=r"rule Grouped.at_least_two_clicks: .*\(1 row\)"):
            build(project, lake, "clean")
        assert failing_users(lake, "clean") == [2]

    @pytest.mark.parametrize("severity", ["error", "warn"])
    def test_a_rule_that_raises_does_not_hold(
        self, project: Project, lake: Lake, arrive: Arrive, severity: Any
    ) -> None:
        declare(project, "clean", satisfies(Broken, severity=severity))
        arrive((at(1), 1), arrived=at(6))
        if severity == "error":
            with pytest.raises(Refused, match=r"the rule broken fails: .*list index out of range"):
                build(project, lake, "clean")
        else:
            assert "list index out of range" in build(project, lake, "clean").warnings[0]

    def test_a_type_that_differs_is_named(self, project: Project, lake: Lake, arrive: Arrive) -> None:
        class Other(dy.Schema):
            user = dy.String()

        declare(project, "clean", satisfies(Other))
        arrive((at(1), 1), arrived=at(6))
        with pytest.raises(ProjectError, match="says that 'user' is String, but it is Int64"):
            build(project, lake, "clean")

    def test_rows_that_the_schema_refuses_are_kept(self, project: Project, lake: Lake, arrive: Arrive) -> None:
        arrive((at(1), 1), (at(2), -1), (at(2), 5), arrived=at(6))  # user -1 pays 0
        with pytest.raises(Refused, match="price: min_exclusive"):
            build(project, lake, "clean")
        kept = lake.table(failing_table("clean")).scan().select("user", "_rule", "_partition").collect()
        assert kept.rows() == [(-1, "price: min_exclusive", "2024-01-02")]
        assert report_of(lake, "clean").results[0].rule == "schema Clean"

    def test_keys_that_are_in_two_partitions_are_kept(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        class Unique(dy.Schema):
            at = dy.Datetime(time_unit="us", time_zone="UTC")
            user = dy.Int64(primary_key=True)
            price = dy.Float64()

        declare(project, "clean", schema=Unique)
        arrive((at(1), 1), (at(1), 2), arrived=at(6))
        build(project, lake, "clean")
        arrive((at(2), 2), (at(2), 3), arrived=at(6))
        with pytest.raises(Refused, match=r"unique user: 1 key is in several partitions, .*user=2"):
            build(project, lake, "clean")
        assert failing_users(lake, "clean") == [2, 2]


@pytest.mark.parametrize("column", sorted(FAILING_ROW_COLUMNS))
class TestColumnsOfFailingRows:
    def test_a_table_with_audits_cannot_have_them(self, project: Project, lake: Lake, column: str) -> None:
        def rename(rows: pl.LazyFrame) -> pl.LazyFrame:
            return rows.select("user", pl.col("name").alias(column))

        declare(project, "people", references("user", "people", severity="warn"), function=rename)
        with pytest.raises(ProjectError, match=f"'{column}' is a column that Headrace adds") as caught:
            build(project, lake, "people")
        assert "another name in the function" in str(caught.value.remedy)
        declare(project, "people", function=rename)
        assert build(project, lake, "people").rows == 2

    def test_a_schema_cannot_have_them(self, column: str) -> None:
        schema = type("Named", (dy.Schema,), {column: dy.String()})
        with pytest.raises(ProjectError, match=f"'{column}' is a column that Headrace adds .*failing rows"):
            table(reads="other", schema=schema)(lambda rows: rows)


BUILDER = """
import sys
from pathlib import Path
from headrace import lake, references
from headrace.config.settings import load_settings
from headrace.projects.project import load_project
from headrace.tables.build import build_table

project = load_project(load_settings(Path(sys.argv[1])))
clean = project.table("clean")
object.__setattr__(clean, "audits", (references("user", "people", severity="warn"),))
build_table(project, lake.open(project.settings), clean, code="1", audits="a")
"""


def run_builder(project: Project, fault: str) -> subprocess.CompletedProcess[bytes]:
    """Builds `clean` in a process that is killed at the fault."""
    command = [sys.executable, "-c", BUILDER, str(project.settings.root)]
    environment = {**os.environ, "HEADRACE_FAULT": fault}
    return subprocess.run(command, env=environment, timeout=300, check=False)


@pytest.mark.parametrize(
    "fault",
    [
        "tables.after_part",  # between write and audit
        "tables.before_failing_rows",
        "tables.after_failing_rows",
        "tables.after_audit",
    ],
)
def test_a_killed_build_publishes_nothing_that_was_not_audited(
    project: Project, lake: Lake, arrive: Arrive, fault: str
) -> None:
    declare(project, "clean", references("user", "people", severity="warn"))
    build(project, lake, "people")
    arrive((at(1), 1), arrived=at(6))
    before = build(project, lake, "clean")
    arrive((at(2), 7), arrived=at(6))
    killed = run_builder(project, fault)
    assert killed.returncode == -signal.SIGKILL
    head = lake.table("clean").current_snapshot()
    assert head is not None
    assert head.id == before.snapshot
    assert len(build(project, lake, "clean").warnings) == 1
    assert users_in(lake, "clean") == [1, 7]
    assert failing_users(lake, "clean") == [7]
    assert (report_of(lake, "clean").stops, report_of(lake, "clean").kept) == (False, 1)


class TestLastingWarning:
    def test_only_what_changed_and_what_fails_is_checked_again(
        self, project: Project, lake: Lake, arrive: Arrive, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        declare(project, "clean", references("user", "people", severity="warn"))
        arrive((at(1), 7), (at(2), 1), (at(2), 2), arrived=at(6))
        build(project, lake, "people")
        assert len(build(project, lake, "clean").warnings) == 1
        checked = []

        def check(audit: Any, scope: AuditScope) -> RuleFailure | None:
            checked.append(sorted(scope.rows.collect()["user"]))
            return check_references(audit, scope)

        monkeypatch.setitem(_AUDITS, References, ("foreign_key", check))  # type: ignore[index]
        arrive((at(3), 1), arrived=at(6))
        assert len(build(project, lake, "clean").warnings) == 1
        assert checked == [[1, 7]]  # the new day, and the one that fails
        again = build(project, lake, "clean")
        assert (again.skipped, len(again.warnings), checked) == (True, 1, [[1, 7]])

    @pytest.mark.parametrize("seed", range(4))
    def test_the_report_is_that_of_the_whole_table_after_each_build(
        self, project: Project, lake: Lake, arrive: Arrive, seed: int
    ) -> None:
        class Low(dy.Schema):
            price = dy.Float64(max=8)  # user 8 pays 9

        draw = Random(seed)
        declare(
            project, "clean", references("user", "people", severity="warn"), satisfies(Low, severity="warn")
        )
        build(project, lake, "people")
        for number in range(6):
            days = [draw.randrange(1, 6) for _ in range(draw.randrange(1, 4))]
            arrive(*[(at(day), draw.choice([1, 2, 2, 1, 7, 8])) for day in days], arrived=at(7, number))
            if number == 3:
                write_people(project, 1, 2, 8)
                build(project, lake, "people")
            build(project, lake, "clean")
            users, known = users_in(lake, "clean"), {1, 2, 8} if number >= 3 else {1, 2}
            unknown = [user for user in users if user not in known]
            report = report_of(lake, "clean")
            failing = {result.rule.split()[0]: result.failing for result in report.results}
            assert failing["references"] == len(unknown)
            assert failing["satisfies"] == users.count(8)
            failing_rows = sorted(unknown + [8] * users.count(8))
            assert not failing_rows or failing_users(lake, "clean") == failing_rows


class TestReport:
    def test_changed_audits_are_run_without_making_rows_again(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        arrive((at(1), 7), arrived=at(6))
        build(project, lake, "people")
        first = build(project, lake, "clean")
        declare(project, "clean", references("user", "people", severity="warn"))
        again = build(project, lake, "clean", audits="b")
        assert (again.skipped, again.snapshot, len(again.warnings)) == (True, first.snapshot, 1)
        assert failing_users(lake, "clean") == [7]

    def test_a_refusal_is_no_longer_shown_once_the_rows_are_gone(self, project: Project, lake: Lake) -> None:
        class Named(dy.Schema):
            user = dy.Int64()
            name = dy.String(max_length=4)

        declare(project, "people", schema=Named)
        write = (project.settings.root / "data" / "names.csv").write_text
        write("user,name\n1,Ann\n")
        build(project, lake, "people")
        write("user,name\n1,Annabel\n")
        with pytest.raises(Refused):
            build(project, lake, "people")
        assert report_of(lake, "people").stops
        write("user,name\n1,Ann\n")
        assert build(project, lake, "people").skipped
        assert report_of(lake, "people").passed

    def test_failing_rows_that_cannot_be_kept_do_not_hold_up_the_build(
        self, project: Project, lake: Lake, arrive: Arrive, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        declare(project, "clean", references("user", "people", severity="warn"))
        arrive((at(1), 7), arrived=at(6))
        build(project, lake, "people")
        ensure = Lake.ensure

        def fail(own: Lake, name: str, *arguments: Any, **options: Any) -> Any:
            if name == failing_table("clean"):
                raise OSError("no space left on device")
            return ensure(own, name, *arguments, **options)

        monkeypatch.setattr(Lake, "ensure", fail)
        assert len(build(project, lake, "clean").warnings) == 1
        assert users_in(lake, "clean") == [7]
        assert report_of(lake, "clean").kept == 0

    def test_lineage_has_the_results_as_assertions(self, project: Project, lake: Lake, arrive: Arrive) -> None:
        events: list[dict[str, Any]] = []

        class Recorder:
            def record(self, event: RunEvent) -> None:
                converted = openlineage_event(copy_event(event), Names("tiny"), "1")
                if converted is not None and event.run.job == "audit clean" and event.outcome == "COMPLETE":
                    events.append(converted)

        declare(project, "clean", references("user", "people"), rows_like_before(0.5, severity="warn"))
        arrive((at(1), 7), arrived=at(6))
        build(project, lake, "people")
        with record_with(Recorder()), pytest.raises(Refused):
            build(project, lake, "clean")
        (event,) = events
        make_event_check()(event)
        (read,) = event["inputs"]
        assert (read["name"], event["outputs"]) == ("table/clean", [])
        assert read["inputFacets"]["dataQualityAssertions"]["assertions"] == [
            {"assertion": "schema", "name": "schema Clean", "success": True, "severity": "error"},
            {
                "assertion": "foreign_key",
                "name": "references user → people",
                "success": False,
                "severity": "error",
                "column": "user",
                "actual": "1 row",
            },
            {"assertion": "row_count", "name": "rows_like_before 0.5", "success": True, "severity": "warn"},
        ]

    def test_lineage_names_the_snapshot_that_was_audited_after_it_is_published(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        events: list[tuple[str, str, list[str]]] = []

        class Recorder:
            def record(self, event: RunEvent) -> None:
                converted = openlineage_event(copy_event(event), Names("tiny"), "1")
                assert converted is not None
                if event.outcome == "COMPLETE":
                    datasets = converted["inputs"] if event.run.job == "audit clean" else converted["outputs"]
                    (shown,) = datasets
                    fields = shown["facets"].get("schema", {}).get("fields", [])
                    version = shown["facets"]["version"]["datasetVersion"]
                    events.append((event.run.job, version, [field["name"] for field in fields]))

        declare(project, "clean", references("user", "people"))
        arrive((at(1), 1), arrived=at(6))
        build(project, lake, "people")
        with record_with(Recorder()):
            built = build(project, lake, "clean")
            build(project, lake, "clean")
            write_people(project, 1, 2)
        build(project, lake, "people")
        with record_with(Recorder()):
            build(project, lake, "clean")
        columns = lake.table("clean").schema().names
        build_event = ("table clean", str(built.snapshot), columns)
        audit_event = ("audit clean", str(built.snapshot), [])
        assert events == [build_event, audit_event] * 3

    def test_an_audit_that_a_killed_build_has_not_recorded_is_recorded_by_the_next(
        self, project: Project, lake: Lake, arrive: Arrive
    ) -> None:
        recorded: list[tuple[Position | None, list[str]]] = []

        class Recorder:
            def record(self, event: RunEvent) -> None:
                if event.run.job == "audit clean" and event.outcome == "COMPLETE":
                    (read,) = event.run.inputs
                    failed = [rule["name"] for rule in read.facts["assertions"] if not rule["success"]]
                    recorded.append((read.position, failed))

        declare(project, "clean", references("user", "people", severity="warn"))
        build(project, lake, "people")
        arrive((at(1), 7), arrived=at(6))
        killed = run_builder(project, "tables.before_audit_record")
        assert killed.returncode == -signal.SIGKILL
        with record_with(Recorder()):
            built = build(project, lake, "clean")
        assert built.skipped
        assert recorded == [(SnapshotPosition("clean", built.snapshot), ["references user → people"])]

    @pytest.mark.parametrize("severity", ["error", "warn"])
    def test_what_audits_found_is_withdrawn_once_none_is_declared(
        self, project: Project, lake: Lake, arrive: Arrive, severity: Severity
    ) -> None:
        declare(project, "clean", references("user", "people", severity=severity), schema=None)
        build(project, lake, "people")
        arrive((at(1), 7), arrived=at(6))
        if severity == "error":
            with pytest.raises(Refused):
                build(project, lake, "clean")
        else:
            build(project, lake, "clean")
        assert failing_users(lake, "clean") == [7]
        declare(project, "clean", schema=None)
        assert build(project, lake, "clean", audits="").warnings == []
        assert (report_of(lake, "clean").results, failing_users(lake, "clean")) == ([], [])
        assert users_in(lake, "clean") == [7]


class TestDeclaration:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: references("user", 5), "does not name a table"),  # type: ignore[arg-type]
            (lambda: references([], "people"), "name the columns"),
            (lambda: references(["a", "b"], "people", key="a"), "has 2 columns, but its key has 1"),
            (lambda: references("user", "people", severity="fatal"), "'fatal' is not a severity"),  # type: ignore[arg-type]
            (lambda: fresh_within("soon"), "'soon' is not a valid duration"),
            (lambda: fresh_within(timedelta(0)), "must be positive"),
            (lambda: rows_like_before(0), "needs a positive share"),
            (lambda: rows_like_before(float("nan")), "needs a positive share"),
            (lambda: rows_like_before(True), "needs a positive share"),
            (lambda: satisfies(int), "does not name a dataframely schema"),  # type: ignore[arg-type]
        ],
    )
    def test_a_declaration_that_is_not_valid_is_named(self, make: Callable[[], Audit], message: str) -> None:
        with pytest.raises(ProjectError, match=message) as error:
            make()
        assert error.value.where is not None
        assert "test_audits.py" in error.value.where

    @pytest.mark.parametrize(
        ("audits", "message"),
        [
            (["fresh"], "audits='fresh' is not an audit"),
            (fresh_within("2h"), "does not know the rows' time"),
            ([references("usr", "people")], "names column 'usr', which the schema Trusted lacks"),
            ([rows_like_before(0.5), rows_like_before(0.5, severity="warn")], "is there twice"),
        ],
    )
    def test_audits_that_do_not_fit_the_table_are_named(self, audits: Any, message: str) -> None:
        with pytest.raises(ProjectError, match=message):
            table(reads="clean", partition_by=by("user"), schema=Trusted, audits=audits)(lambda rows: rows)

    def test_one_audit_needs_no_list(self) -> None:
        declared: Table = table(reads="clean", partition_by=day("at"), audits=fresh_within("2h"))(
            lambda rows: rows
        )
        assert [str(audit) for audit in declared.audits] == ["fresh_within 2h"]

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            (
                'people.audits = (references("user", "nobody"),)',
                "table 'people' references 'nobody', which does not exist",
            ),
            (
                'people.audits = (references("user", "daily"),)',
                "read or reference each other in a cycle: people → daily → people",
            ),
        ],
    )
    def test_a_referenced_table_exists_and_is_made_first(
        self, project: Project, code: str, message: str
    ) -> None:
        file = project.settings.root / "tiny" / "tables.py"
        target, _, value = code.partition(".audits = ")
        text = f"\nfrom headrace import references\nobject.__setattr__({target}, 'audits', {value})\n"
        file.write_text(file.read_text() + text)
        with pytest.raises(ProjectError, match=message):
            load_project(load_settings(project.settings.root))
