"""Trials of tables, which publish nothing, and tests that are recorded from real rows."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest
from tests.tables.conftest import arrive, clicks, lake, project
from tests.tiny import write

from headrace.config.settings import Settings, load_settings
from headrace.declare.partitioning import day
from headrace.flows.project.record_test import record_test
from headrace.flows.project.try_table import try_table
from headrace.kernel.errors import CallError, ProjectError
from headrace.lake import Lake
from headrace.projects.project import Project
from headrace.tables.attempt import attempt_table
from headrace.tables.build import build_table
from headrace.tables.purity import find_impurities
from headrace.workspace import Workspace

__all__ = ["arrive", "clicks", "lake", "project"]

TABLES = """
import datetime
import os
import random
import time
import uuid
from pathlib import Path

import dataframely as dy
import numpy as np
import polars as pl
from headrace import by, day, source, table

prices = source("prices", "data/prices.csv")

class Dated(dy.Schema):
    price = dy.Int64(nullable=False, max=2)
    on = dy.Date(nullable=False)

@table(reads=prices, partition_by=day("on"), schema=Dated)
def dated(prices):
    return prices.with_columns(on=pl.date(2026, 11, pl.col("price")))

@table(reads=dated, partition_by=day("on"))
def per_day(rows):
    return rows.group_by("on").agg(spent=pl.col("price").sum().cast(pl.Float64) / 3)

@table(reads=dated, partition_by=day("on"))
def discounted(rows):
    return rows.filter(pl.col("price") > 1)

@table(reads=prices)
def plain(prices):
    return prices

@table(reads=prices)
def counted(prices):
    kinds = prices.collect().group_by(pl.col("price").cast(pl.String).cast(pl.Categorical)).len().lazy()
    return kinds.with_columns(at=pl.lit(datetime.datetime(2026, 11, 1)).dt.replace_time_zone("Europe/Berlin"))

@table(reads=prices)
def empty_column(prices):
    return prices.with_columns(x=pl.lit(None))

@table(reads=prices)
def clocked(prices):
    return prices.with_columns(at=pl.lit(datetime.datetime.now()), on=pl.lit(time.time()))

@table(reads=prices)
def sold(prices):
    return prices.select(item=pl.col("price") + 1, earned=pl.lit(9), at=pl.datetime(2026, 11, 2))

@table(reads=prices)
def bought(prices):
    return prices.select(item="price", paid=pl.lit(5), at=pl.datetime(2026, 11, 1))

@table(reads=[sold, bought])
def margin(sold, bought):
    return sold.join(bought, on="item").select("item", margin=pl.col("earned") - pl.col("paid"))

@table(reads=prices)
def drawn(prices):
    return prices.with_columns(x=pl.lit(random.random()), y=pl.lit(str(uuid.uuid4()))).select(
        "x", "y", pl.col("price").shuffle()
    )

@table(reads=prices)
def called_back(prices):
    def describe(price):
        return f"{os.environ['HOME']} {datetime.datetime.now().year} {random.getrandbits(1)}"

    return prices.with_columns(
        x=pl.col("price").map_elements(describe, return_dtype=pl.String),
        y=pl.col("price").map_batches(lambda prices: prices + time.time_ns() % 2, return_dtype=pl.Int64),
    )

@table(reads=prices)
def timed_by_numpy(prices):
    return prices.with_columns(at=pl.lit(np.datetime64("today").astype("datetime64[us]")))

@table(reads=prices)
def from_files(prices):
    text = Path(__file__).read_text()
    return prices.with_columns(x=pl.lit(len(text)), y=pl.lit(pl.read_csv(ROOT / "data" / "prices.csv").height))

@table(reads=prices, reads_files="data/prices.csv")
def from_declared_files(prices):
    return prices.with_columns(y=pl.lit(pl.read_csv(ROOT / "data" / "prices.csv").height))

@table(reads=prices, reads_files="data/prices.csv")
def from_the_working_folder(prices):
    return prices.with_columns(y=pl.lit(pl.read_csv("data/prices.csv").height))

@table(reads=prices)
def hashed(prices):
    return prices.with_columns(x=pl.lit(hash("a text")))

SECOND = np.datetime64

@table(reads=prices)
def timed_to_the_second(prices):
    return prices.with_columns(at=pl.lit(SECOND("now").astype("datetime64[us]")))

ROOT = Path(__file__).parents[1]

@table(reads=prices)
def seeded(prices):
    return prices.with_columns(x=pl.lit(random.Random(3).gauss(0, 1)), y=pl.lit(random.Random(3).random()))

@table(reads=prices)
def unseeded(prices):
    return prices.with_columns(x=pl.lit(random.Random().random()))

@table(reads=prices)
def named(prices):
    return prices.with_columns(id=pl.lit(uuid.uuid5(uuid.NAMESPACE_URL, "price").hex))

@table(reads=prices, env="DECLARED")
def from_environment(prices):
    return prices.with_columns(x=pl.lit(os.environ.get("HOME")), y=pl.lit(os.getenv("DECLARED")))
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    settings: Settings = load_settings(write(tmp_path / "project", TABLES))
    with Workspace(settings) as opened:
        yield opened
    sys.path.remove(str(settings.root))


def build(workspace: Workspace, *names: str) -> None:
    for name in names:
        build_table(workspace.project, workspace.lake, workspace.project.table(name), code="1")


def test_a_table_that_reads_only_a_source_is_tried_and_recorded_by_the_partitions_of_its_rows(
    workspace: Workspace,
) -> None:
    trial = try_table(workspace, "dated", partition="2026-11-02")
    assert (trial.partition, [row["price"] for row in trial.sample]) == ("2026-11-02", [2])
    assert try_table(workspace, "dated").rows == 2
    with pytest.raises(CallError, match="has no partition '2026-12-01'") as refused:
        try_table(workspace, "dated", partition="2026-12-01")
    assert refused.value.remedy == "The rows made by its function are of 2026-11-01 to 2026-11-02."
    recorded = record_test(workspace, "dated", partition="2026-11-02")
    assert (recorded.file, recorded.rows) == ("tests/test_dated_2026_11_02.py", 2)
    with pytest.raises(CallError, match="has no partition") as refused:
        record_test(workspace, "dated", partition="2026-11-02", limit=1)
    assert "1 rows of its input" in str(refused.value.remedy)


def test_a_trial_shows_a_partition_and_publishes_nothing(workspace: Workspace) -> None:
    build(workspace, "dated")
    trial = try_table(workspace, "per_day", partition="2026-11-02", strict=True)
    assert (trial.partition, trial.read, trial.rows) == ("2026-11-02", {"dated": 1}, 1)
    assert trial.columns == {"on": "Date", "spent": "Float64"}
    assert [row["spent"] for row in trial.sample] == [2 / 3]
    assert (trial.refusal, trial.difference, trial.impure) == (None, None, [])
    assert not workspace.lake.table_exists("per_day")
    assert try_table(workspace, "per_day").partition == "2026-11-02"
    with pytest.raises(CallError, match="has no partition '2026-12-01'") as refused:
        try_table(workspace, "per_day", partition="2026-12-01")
    assert refused.value.remedy == "It has 2026-11-01 to 2026-11-02."


@pytest.mark.parametrize("run", [try_table, record_test])
def test_a_name_that_is_declared_twice_is_not_tried(
    workspace: Workspace, run: Callable[[Workspace, str], object]
) -> None:
    file = workspace.settings.root / "tiny" / "tables.py"
    file.write_text(
        f"{file.read_text()}\n@table(reads=prices)\ndef plain(prices):\n    return prices.head(0)\n"
    )
    with pytest.raises(ProjectError, match="'plain' is declared twice in one module"):
        run(workspace, "plain")


def test_a_trial_shows_the_audit_and_the_difference(workspace: Workspace) -> None:
    build(workspace, "dated")
    file = workspace.settings.root / "data" / "prices.csv"
    file.write_text("price\n2\n2\n3\n")
    trial = try_table(workspace, "dated")
    assert trial.refusal is not None
    assert trial.refusal.startswith("price: max (1 of 3 rows), for example:\n  price=3")
    assert trial.difference is not None
    assert (trial.difference.added, trial.difference.removed) == (2, 1)
    assert workspace.lake.table("dated").scan().collect()["price"].sort().to_list() == [1, 2]


def test_a_trial_compares_columns_that_the_lake_stores_with_another_type(workspace: Workspace) -> None:
    build(workspace, "counted")
    unchanged = try_table(workspace, "counted")
    assert unchanged.columns["price"].startswith("Categorical")
    assert unchanged.columns["len"] == "UInt32"
    assert unchanged.difference is not None
    assert (unchanged.difference.added, unchanged.difference.removed) == (0, 0)
    assert unchanged.difference.columns == []
    (workspace.settings.root / "data" / "prices.csv").write_text("price\n1\n2\n2\n")
    changed = try_table(workspace, "counted").difference
    assert changed is not None
    assert (changed.added, changed.removed) == (1, 1)  # 2 stands twice now


def test_a_trial_refuses_a_column_that_cannot_be_stored(workspace: Workspace) -> None:
    trial = try_table(workspace, "empty_column")
    assert trial.refusal == "type null cannot be stored in a table: empty_column.x"
    assert trial.rows == 2


@pytest.mark.parametrize(
    ("table", "findings"),
    [
        ("clocked", ["reads the clock: now() at", "reads the clock: time() at"]),
        ("drawn", ["draws random numbers: random() at", "uuid.uuid4() at", "shuffle() without seed= at"]),
        ("from_environment", ["reads the environment variable HOME at"]),
        (
            "called_back",
            [
                "reads the environment variable HOME at",
                "reads the clock: now() at",
                "reads the clock: time_ns() at",
                "draws random numbers: getrandbits() at",
            ],
        ),
        ("timed_by_numpy", ["reads the clock: numpy.datetime64() at"]),
        ("from_files", ["that reads_files= does not declare: open() at", "not declare: read_csv() at"]),
        ("from_declared_files", []),
        ("plain", []),
        ("counted", []),
        ("named", []),
        ("seeded", []),
    ],
)
def test_a_strict_trial_finds_what_the_function_reads_beside_its_input(
    workspace: Workspace, table: str, findings: list[str]
) -> None:
    impure = try_table(workspace, table, strict=True).impure
    assert impure is not None
    for finding in findings:
        assert [line for line in impure if finding in line and "tables.py:" in line], (finding, impure)
    if not findings:
        assert impure == []
    assert not [line for line in impure if "DECLARED" in line]


def test_a_generator_without_a_seed_is_found_by_its_numbers(workspace: Workspace) -> None:
    (finding,) = try_table(workspace, "unseeded", strict=True).impure or []
    assert finding.startswith("two runs give other rows for the same input")


def test_what_differs_in_another_process_is_found(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.settings.root)
    monkeypatch.setenv("PYTHONHASHSEED", "random")
    for table, finding in {
        "from_the_working_folder": "it fails in another process, folder and environment: from_the_working",
        "hashed": "a run in another process, folder, environment and second gives other rows",
        "timed_to_the_second": "a run in another process, folder, environment and second gives other rows",
    }.items():
        impure = try_table(workspace, table, strict=True).impure or []
        assert [line for line in impure if line.startswith(finding)], (table, impure)


class _ReadsTheClockAtItsEnd:
    def __init__(self) -> None:
        self.itself = self  # only garbage collection ends it

    def __del__(self) -> None:
        time.time()
        if gc.get_threshold()[0] == 1:
            _ReadsTheClockAtItsEnd()  # so that there is one at every moment of the test


def test_garbage_that_is_collected_meanwhile_is_not_the_functions(
    project: Project, lake: Lake, arrive: Callable[..., None]
) -> None:
    at = datetime(2026, 4, 3, 22, tzinfo=UTC)
    arrive((at, 1), arrived=at + timedelta(days=3))
    clean = project.table("clean")
    build_table(project, lake, clean, code="1")
    attempt = attempt_table(project, lake, project.table("visits"))
    threshold = gc.get_threshold()
    _ReadsTheClockAtItsEnd()
    gc.set_threshold(1)
    try:
        assert find_impurities(project, attempt) == []
    finally:
        gc.set_threshold(*threshold)


def test_rows_that_change_after_the_last_build_of_their_partition_are_found(
    project: Project, lake: Lake, arrive: Callable[..., None]
) -> None:
    """A visit counts when four hours have passed: those of a day may end on the next one."""
    at = datetime(2026, 4, 3, 22, tzinfo=UTC)
    arrive((at, 1), arrived=at + timedelta(days=3))
    clean, visits = project.table("clean"), project.table("visits")
    build_table(project, lake, clean, code="1")
    assert find_impurities(project, attempt_table(project, lake, visits)) == []
    short = attrs.evolve(visits, partition_by=day("begin"))
    findings = find_impurities(project, attrs.evolve(attempt_table(project, lake, visits), table=short))
    assert len(findings) == 1, findings
    finding = findings[0]
    assert "the rows still change with `now` after the end of the input (2026-04-04 00:00 UTC)" in finding
    assert finding.partition(": ")[2].startswith(
        "declare a larger after= in day(): + user=1, begin=2026-04-03 22:00"
    )


def test_a_recorded_test_fails_once_the_function_changes(workspace: Workspace) -> None:
    build(workspace, "dated")
    recorded = record_test(workspace, "per_day", partition="2026-11-02")  # it runs the test, too
    assert (recorded.file, recorded.read, recorded.rows) == (
        "tests/test_per_day_2026_11_02.py",
        {"dated": 1},
        1,
    )
    root = workspace.settings.root
    tables = root / "tiny" / "tables.py"
    tables.write_text(tables.read_text().replace("/ 3)", "/ 4)"))
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    out = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    assert out.returncode == 1
    assert 'DataFrames are different (value mismatch for column "spent")' in out.stdout


def test_an_edited_test_is_not_recorded_anew_unasked(workspace: Workspace) -> None:
    build(workspace, "dated")
    recorded = record_test(workspace, "per_day", partition="2026-11-02")
    file = workspace.settings.root / recorded.file
    text = file.read_text()
    assert record_test(workspace, "per_day", partition="2026-11-02") == recorded
    file.write_text(f"{text}# checked with the finance team\n")
    with pytest.raises(CallError, match="this test exists already, and differs"):
        record_test(workspace, "per_day", partition="2026-11-02")
    assert file.read_text() != text
    record_test(workspace, "per_day", partition="2026-11-02", overwrite=True)
    assert file.read_text() == text


def test_a_test_of_two_inputs_has_rows_that_belong_together(workspace: Workspace) -> None:
    """Their times differ, so a row of both has other values in the shared column `at`."""
    build(workspace, "sold", "bought")
    assert record_test(workspace, "margin", limit=1).read == {"sold": 1, "bought": 1}


def test_a_test_that_would_expect_nothing_is_not_recorded(workspace: Workspace) -> None:
    build(workspace, "dated")
    with pytest.raises(CallError, match="discounted makes no rows of 1 row of dated, so there is"):
        record_test(workspace, "discounted", partition="2026-11-01")
    assert not list((workspace.settings.root / "tests").glob("test_*"))


def test_a_test_of_an_impure_function_is_not_recorded(workspace: Workspace) -> None:
    with pytest.raises(ProjectError, match="drawn gives other rows for the same input"):
        record_test(workspace, "drawn")
    assert not list((workspace.settings.root / "tests").glob("test_*"))
