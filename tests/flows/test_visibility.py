"""What readers see beside builds, and after builds that fail, are killed, or make only some tables."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime, timedelta
from itertools import combinations
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.flows.builds import call
from tests.tiny import edit, write
from tests.until import until

import headrace
from headrace import lake as lakes
from headrace.config.settings import Settings, load_settings
from headrace.flows.build import build
from headrace.flows.build.visibility import advance
from headrace.flows.events.drop_table import drop_table
from headrace.flows.project.status import status
from headrace.kernel.errors import CallError, HeadraceError, Refused
from headrace.lake import maintain
from headrace.lake.visible import TABLE, VisibleRecord, read_record
from headrace.tables.range import BuildRange
from headrace.workspace import Workspace

TABLES = """
import dataframely as dy
import polars as pl
from headrace import references, satisfies, source, table

class Once(dy.Schema):
    version = dy.Int64(primary_key=True)

version = source("version", "data/version.csv")
other = source("other", "data/other.csv")

@table(reads=version)
def users(rows):
    return rows.with_columns(user=pl.lit(1))

@table(reads=version, audits=[references("user", "users", key="user"), satisfies(Once)])
def facts(rows):
    return rows.with_columns(user=pl.lit(1))

@table(reads=facts)
def sums(facts):
    return facts.select(pl.col("version").max())

@table(reads=other)
def apart(rows):
    return rows
"""
RELATED = ("users", "facts", "sums")


@pytest.fixture
def shop(tmp_path: Path) -> Settings:
    """Facts audited against users, sums of the facts, and a table that nothing relates to them. Every row says
    the version of the file that it was made from."""
    settings = load_settings(write(tmp_path / "project", TABLES))
    write_version(settings, 1)
    return settings


def write_version(settings: Settings, *versions: int) -> None:
    text = "version\n" + "".join(f"{version}\n" for version in versions)
    (settings.root / "data" / "version.csv").write_text(text)
    (settings.root / "data" / "other.csv").write_text(text)


def run(settings: Settings, *targets: str, only: BuildRange | None = None) -> list[str]:
    with Workspace(settings) as workspace:
        return [stage.stage for stage in build(workspace, targets, only=only).stages]


def seen(settings: Settings, *names: str) -> list[int]:
    """The versions that readers see."""
    tables = headrace.project(settings.root).tables(*names or (*RELATED, "apart"))
    return [int(table.to_polars()["version"].max()) for table in tables]  # type: ignore[arg-type]


def newest(settings: Settings, name: str) -> int:
    return int(headrace.project(settings.root).table(name, at="main").to_polars()["version"].max())  # type: ignore[arg-type]


def test_tables_of_a_build_become_visible_together(shop: Settings) -> None:
    run(shop)
    write_version(shop, 2)
    stop, versions = threading.Event(), list[list[int]]()

    def read() -> None:
        while not stop.is_set():
            versions.append(seen(shop))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for version in (2, 3, 4):
            until(lambda before=version - 1: bool(versions) and versions[-1] == [before] * 4)  # type: ignore[misc]
            write_version(shop, version)
            run(shop)
        until(lambda: versions[-1] == [4] * 4)
    finally:
        stop.set()
        reader.join()
    assert all(len(set(row)) == 1 for row in versions)
    assert {row[0] for row in versions} == {1, 2, 3, 4}
    for name in RELATED:  # only the visible snapshot is kept by a tag
        tags = [tag for tag in lakes.open(shop).table(name).tags() if tag.startswith("headrace-visible-")]
        assert len(tags) == 1


KILLS = [
    ("tables.after_audit:2", 1),  # one table is committed, the second is not
    ("build.before_visible", 1),  # all tables are
    ("lake.before_commit:5", 1),  # the four tables, then the record
    ("lake.after_commit:5", 2),
]


@pytest.mark.parametrize(("fault", "version"), KILLS)
def test_a_killed_build_shows_all_tables_or_none(shop: Settings, fault: str, version: int) -> None:
    run(shop)
    write_version(shop, 2)
    assert call(shop, "build", fault=fault).returncode == -9
    assert seen(shop) == [version] * 4
    if version == 1:
        assert newest(shop, "users") == 2
        with Workspace(shop) as workspace:
            for name in RELATED:
                maintain(workspace.lake.table(name), older_than=timedelta(0))
        assert seen(shop) == [1] * 4
    run(shop)
    assert seen(shop) == [2] * 4
    assert run(shop) == []


def test_a_failed_audit_holds_up_related_tables_alone(shop: Settings) -> None:
    run(shop)
    write_version(shop, 2, 2)  # facts must be unique
    with pytest.raises(Refused, match="facts"):
        run(shop)
    assert seen(shop) == [1, 1, 1, 2]
    assert newest(shop, "users") == 2
    with Workspace(shop) as workspace:
        tables = {table.table: table for table in status(workspace).tables}
    assert tables["users"].waiting is not None
    assert "table-facts failed" in tables["users"].waiting
    assert (tables["users"].rows, tables["apart"].waiting, TABLE in tables) == (1, None, False)
    write_version(shop, 3)
    run(shop)
    assert seen(shop) == [3] * 4
    assert read_record(lakes.open(shop)).waiting == {}  # type: ignore[union-attr]


def test_a_table_that_readers_have_never_seen_holds_up_none(shop: Settings) -> None:
    """Nothing old of facts can stand beside the new users."""
    write_version(shop, 1, 1)
    with pytest.raises(Refused):
        run(shop)
    assert (seen(shop, "users"), newest(shop, "users")) == ([1], 1)
    assert seen(shop, "apart") == [1]
    with pytest.raises(CallError, match="'facts' has no rows yet"):
        headrace.project(shop.root).table("facts")


def test_a_new_table_waits_for_an_old_one_that_it_is_related_to(shop: Settings) -> None:
    """It is made from users that readers do not see, because the facts beside them failed."""
    run(shop)
    edit(
        shop.root,
        (
            "@table(reads=other)",
            "@table(reads=users)\ndef new(users):\n    return users\n\n@table(reads=other)",
        ),
    )
    write_version(shop, 2, 2)
    with pytest.raises(Refused):
        run(shop)
    with pytest.raises(CallError, match="'new' is not visible yet: table-facts failed") as error:
        headrace.project(shop.root).table("new")
    assert 'at="main"' in str(error.value)
    assert newest(shop, "new") == 2
    assert seen(shop, "users", "apart") == [1, 2]
    out = call(shop, "status").stdout
    assert "not visible yet" in out
    assert "Readers do not see the newest rows of users yet: table-facts failed" in out


def test_every_failed_table_is_named(shop: Settings) -> None:
    edit(shop.root, ("reads=other)", "reads=other, audits=[satisfies(Once)])"))
    write_version(shop, 1, 1)
    out = call(shop, "build")
    assert out.returncode == 1
    first, others = out.stderr.split("Failed too")
    assert "table facts" in first
    assert "table apart" in others


def test_a_build_of_one_table_shows_it_with_those_that_are_related(shop: Settings) -> None:
    run(shop)
    write_version(shop, 2)
    assert run(shop, "users") == ["table-users", "visible"]
    assert (seen(shop), newest(shop, "users")) == ([1, 1, 1, 1], 2)
    assert run(shop, "apart") == ["table-apart", "visible"]
    assert seen(shop) == [1, 1, 1, 2]
    assert run(shop, "sums") == ["table-facts", "table-sums"]
    assert seen(shop) == [2] * 4
    assert run(shop) == []


def test_stages_that_dvc_runs_become_visible_as_well(shop: Settings) -> None:
    run(shop)
    write_version(shop, 2)
    out = call(shop, "dvc", "repro", "-q", "table-apart")
    assert out.returncode == 0, out.stderr
    assert seen(shop) == [1, 1, 1, 2]


def test_all_of_a_table_that_is_made_again_is_visible(shop: Settings) -> None:
    run(shop)
    before = headrace.project(shop.root).table("facts").snapshot
    run(shop, "facts", only=BuildRange())
    assert seen(shop) == [1] * 4
    with Workspace(shop) as workspace:
        current = workspace.lake.table("facts").current_snapshot()
    assert current is not None
    assert current.id != before


RANGE = """
import polars as pl
from headrace import day, source, table

prices = source("prices", "data/prices.csv")

@table(reads=prices, partition_by=day("on"))
def dated(prices):
    return prices.with_columns(on=pl.date(2026, 11, pl.col("price")))

@table(reads=dated, partition_by=day("on"))
def per_day(rows):
    return rows
"""


def test_a_range_is_visible_once_the_other_days_are_made(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path / "project", RANGE))
    second = BuildRange(date(2026, 11, 2), date(2026, 11, 2))
    assert run(settings, "per_day", only=second) == ["table-dated", "table-per_day", "visible"]
    table = headrace.project(settings.root).table
    with pytest.raises(CallError, match="a build of a range left out 1 partition of per_day"):
        table("per_day")
    assert len(table("per_day", at="main").to_polars()) == 1
    assert run(settings) == ["table-per_day"]
    assert len(table("per_day").to_polars()) == 2


def test_a_lake_from_before_the_record_is_read_at_its_newest_rows(shop: Settings) -> None:
    run(shop)
    write_version(shop, 2)
    run(shop)
    lake = lakes.open(shop)
    lake.drop_table(TABLE)
    assert seen(shop) == [2] * 4
    write_version(shop, 3, 3)
    with pytest.raises(Refused):
        run(shop)
    assert seen(shop) == [2, 2, 2, 3]


def test_what_readers_saw_at_a_moment_is_read_by_it(shop: Settings) -> None:
    run(shop)
    write_version(shop, 2)
    call(shop, "build", fault="build.before_visible")
    moment = datetime.now(UTC)  # all tables are committed, and none is visible
    run(shop)
    tables = headrace.project(shop.root).tables("users", "facts", at=moment)
    assert [table.to_polars()["version"].to_list() for table in tables] == [[1], [1]]


def test_a_tag_names_what_readers_see(shop: Settings) -> None:
    run(shop)
    project = headrace.project(shop.root)
    write_version(shop, 2)
    run(shop, "users")
    assert project.tag_table("users", "v1").to_polars()["version"].to_list() == [1]
    assert [version.visible for version in project.table_versions("users")] == [True, False]
    assert project.tag_table("users", "v2", at="main").to_polars()["version"].to_list() == [2]


def test_rows_of_another_commit_become_visible_when_they_are_restored(shop: Settings) -> None:
    run(shop)
    pointers = {file: file.read_bytes() for file in (shop.root / "pointers").rglob("*.json")}
    lock = (shop.root / "dvc.lock").read_bytes()
    write_version(shop, 2)
    run(shop)
    write_version(shop, 1)
    for file, content in pointers.items():
        file.write_bytes(content)
    (shop.root / "dvc.lock").write_bytes(lock)
    assert seen(shop) == [2] * 4
    run(shop)
    assert seen(shop) == [1] * 4


def test_a_table_that_is_dropped_and_made_again_is_visible(shop: Settings) -> None:
    run(shop)
    with Workspace(shop) as workspace:
        drop_table(workspace, "apart")
    assert "apart" not in read_record(lakes.open(shop)).tables  # type: ignore[union-attr]
    run(shop)
    assert seen(shop) == [1] * 4


def test_a_visible_snapshot_that_another_program_removed_is_an_error(shop: Settings) -> None:
    run(shop)
    write_version(shop, 2)
    run(shop, "users")
    table = lakes.open(shop).table("users")
    for tag in table.tags():
        table.remove_tag(tag)
    maintain(table, older_than=timedelta(0))
    with pytest.raises(CallError, match="does not exist any more"):
        headrace.project(shop.root).table("users")
    run(shop)
    assert seen(shop) == [2] * 4


def test_rows_of_another_program_are_not_visible(shop: Settings) -> None:
    run(shop)
    lakes.open(shop).table("users").append(pl.DataFrame({"version": [7], "user": [1]}).to_arrow())
    assert seen(shop, "users") == [1]
    assert newest(shop, "users") == 7


NUMBERS = st.integers(0, 5)


@settings(max_examples=400)
@given(
    names=st.integers(1, 6),
    edges=st.sets(st.tuples(NUMBERS, NUMBERS)),
    past_edges=st.sets(st.tuples(NUMBERS, NUMBERS)),
    before=st.dictionaries(NUMBERS, st.integers(0, 2)),
    built=st.dictionaries(NUMBERS, st.integers(0, 2)),
    stale=st.sets(NUMBERS),
)
def test_the_most_tables_become_visible_that_can(
    names: int,
    edges: set[tuple[int, int]],
    past_edges: set[tuple[int, int]],
    before: dict[int, int],
    built: dict[int, int],
    stale: set[int],
) -> None:
    """The oracle tries all sets of changed tables. None of a set may be stale, or be related to a table that
    holds it up: one that readers see and that is stale, or changed and not in the set; one with whose rows the
    visible rows of such a table were made; or one that is changed, not in the set, and held up itself. The
    union of all such sets is one."""
    text = [f"t{number}" for number in range(6)]
    pairs = {(text[a % names], text[b % names]) for a, b in edges if a % names != b % names}
    related = {name: {b for a, b in pairs | {(b, a) for a, b in pairs} if a == name} for name in text}
    seen_before = {text[t]: snapshot for t, snapshot in before.items() if t < names}
    recorded = {name: sorted(text[b] for a, b in past_edges if text[a] == name) for name in seen_before}
    newest_now = {text[t]: snapshot for t, snapshot in built.items() if t < names}
    late = {text[t]: "late" for t in stale if t < names}
    changed = {name for name, snapshot in newest_now.items() if seen_before.get(name) != snapshot}

    def is_held_up(name: str, holding: set[str]) -> bool:
        return any(name in related[other] or name in recorded.get(other, ()) for other in holding)

    def can_be_seen(chosen: set[str]) -> bool:
        holding = seen_before.keys() & ((changed - chosen) | late.keys())
        while more := {name for name in changed - chosen - holding if is_held_up(name, holding)}:
            holding |= more
        return not chosen & late.keys() and not any(is_held_up(name, holding) for name in chosen)

    sets = [set(c) for size in range(len(changed) + 1) for c in combinations(sorted(changed), size)]
    ready = set().union(*(chosen for chosen in sets if can_be_seen(chosen)))
    record = advance(VisibleRecord(seen_before, {}, recorded), newest_now, late, related, related)
    assert record.tables == {**seen_before, **{name: newest_now[name] for name in ready}}
    assert record.waiting == dict.fromkeys(changed - ready, "late")
    present = ready | (newest_now.keys() - changed - late.keys())
    assert record.made_with == {**recorded, **{name: sorted(related[name]) for name in present}}


def test_a_new_table_that_waits_holds_up_what_was_made_from_it() -> None:
    related = {"old": {"new"}, "new": {"old", "last"}, "last": {"new"}}
    built = {"old": 2, "new": 1, "last": 1}
    record = advance(VisibleRecord({"old": 1}), built, {"old": "it failed"}, related, {})
    assert (record.tables, record.waiting) == ({"old": 1}, dict.fromkeys(built, "it failed"))
    record = advance(VisibleRecord({"old": 1}), built, {"new": "it failed"}, related, {})
    assert record.tables == {"old": 2, "last": 1}  # nothing old of a new table can stand beside them


def test_what_the_visible_rows_of_a_failed_table_were_made_with_waits_after_an_edit_too() -> None:
    was = {"facts": ["users"], "users": []}
    before = VisibleRecord({"facts": 1, "users": 1}, {}, was)
    record = advance(before, {"facts": 1, "users": 2}, {"facts": "it failed"}, {}, {"facts": [], "users": []})
    assert record == VisibleRecord(before.tables, {"users": "it failed"}, was)
    record = advance(record, {"facts": 2, "users": 2}, {}, {}, {"facts": [], "users": []})
    assert record == VisibleRecord({"facts": 2, "users": 2}, {}, {"facts": [], "users": []})


def test_a_table_that_was_edited_and_fails_holds_up_what_its_visible_rows_were_made_with(
    shop: Settings,
) -> None:
    run(shop)
    text = (shop.root / shop.project / "tables.py").read_text()
    audits = 'audits=[references("user", "users", key="user"), satisfies(Once)])\ndef facts(rows):\n'
    assert audits in text
    (shop.root / shop.project / "tables.py").write_text(
        text.replace(audits, "audits=[satisfies(Once)])\ndef facts(rows):\n    return rows.select(1 / 0)\n")
    )
    write_version(shop, 2)
    with pytest.raises(HeadraceError, match="facts failed"):
        run(shop)
    assert seen(shop) == [1, 1, 1, 2]
    (shop.root / shop.project / "tables.py").write_text(text.replace(audits, "audits=[])\ndef facts(rows):\n"))
    run(shop)
    assert seen(shop) == [2, 2, 2, 2]


def test_errors_of_the_catalog_end_a_build(shop: Settings) -> None:
    """They are not an error of one table: the rest is not tried."""
    run(shop)
    shop.place("lake", "catalog.db").write_text("no database, " * 1000)
    with pytest.raises(HeadraceError):
        run(shop)
