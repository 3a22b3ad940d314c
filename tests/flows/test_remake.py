"""A project with another lake: the same tables are made again, with the snapshots that the pointers name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.flows.builds import call, dvc_agrees, run_build
from tests.tiny import write

from headrace import lake
from headrace.config.settings import Settings, load_settings

TABLES = """
import random
import polars as pl
from headrace import day, source, table

prices = source("prices", "data/prices.csv")

@table(reads=prices)
def doubled(prices):
    return prices.with_columns(pl.col("price") * 2).collect().sample(fraction=1, shuffle=True).lazy()

@table(reads=doubled)
def total(doubled):
    return doubled.select(pl.col("price").sum())

@table(reads=prices, partition_by=day("on"))
def dated(prices):
    return prices.with_columns(on=pl.date(2026, 11, pl.col("price") + 1))

@table(reads=dated, partition_by=day("on"))
def odd_days(dated):
    return dated.filter(pl.col("price") % 2 == 1)

@table(reads=odd_days, partition_by=day("on"))
def per_day(rows):
    return rows.group_by("on").agg(pl.col("price").sum())

@table(reads=prices)
def drawn(prices):
    return prices.with_columns(lot=pl.lit(random.random()))

@table(reads=drawn)
def lots(drawn):
    return drawn.select("lot")
"""


@pytest.fixture
def built(tmp_path: Path) -> Settings:
    root = write(tmp_path / "built", TABLES)
    (root / "data" / "prices.csv").write_text("price\n" + "".join(f"{n}\n" for n in range(20)))
    settings = load_settings(root)
    run_build(settings)
    return settings


def copy_without_state(settings: Settings) -> Settings:
    """As a clone has it: all files but the state."""
    clone = settings.root.with_name("clone")
    shutil.copytree(settings.root, clone, ignore=shutil.ignore_patterns(".headrace"))
    return load_settings(clone)


def pointers(settings: Settings) -> dict[str, Any]:
    folder = settings.root / "pointers" / "tables"
    return {path.stem: json.loads(path.read_bytes()) for path in folder.glob("*.json")}


def rows(settings: Settings, table: str) -> list[Any]:
    return lake.open(settings).table(table).scan().collect().rows()


def test_the_same_rows_in_any_order_get_the_same_snapshot(built: Settings) -> None:
    clone = copy_without_state(built)
    before = pointers(clone)
    out = call(clone, "build").stdout
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    for table in ("doubled", "total", "dated", "odd_days", "per_day"):
        assert "the rows are those that its pointer names" in lines[f"table-{table}"]
        assert pointers(clone)[table] == before[table]
        snapshot = lake.open(clone).table(table).current_snapshot()
        assert snapshot is not None
        assert snapshot.id == before[table]["snapshot"]
        assert sorted(rows(clone, table)) == sorted(rows(built, table))
    assert dvc_agrees(clone)
    assert call(clone, "build").stdout.startswith("Nothing to do")


def test_other_rows_get_another_snapshot_and_make_their_readers_stale(built: Settings) -> None:
    clone = copy_without_state(built)
    assert {"table-drawn", "table-lots"} <= set(run_build(clone))
    for table in ("drawn", "lots"):
        assert pointers(clone)[table]["snapshot"] != pointers(built)[table]["snapshot"]
        assert rows(clone, table) != rows(built, table)
    assert {lot for (lot,) in rows(clone, "lots")} == {lot for _, lot in rows(clone, "drawn")}


def test_other_files_get_another_snapshot(built: Settings) -> None:
    clone = copy_without_state(built)
    (clone.root / "data" / "prices.csv").write_text("price\n1\n")
    run_build(clone)
    assert rows(clone, "total") == [(2,)]
    assert pointers(clone)["total"]["snapshot"] != pointers(built)["total"]["snapshot"]
    assert dvc_agrees(clone)


@pytest.mark.parametrize("fault", ["lake.before_commit", "lake.after_commit", "build.before_record"])
def test_a_build_that_is_killed_while_it_makes_a_table_again_is_continued(built: Settings, fault: str) -> None:
    clone = copy_without_state(built)
    assert call(clone, "build", fault=fault).returncode == -9
    run_build(clone)
    assert rows(clone, "total") == rows(built, "total")
    assert pointers(clone)["total"] == pointers(built)["total"]
    assert dvc_agrees(clone)
