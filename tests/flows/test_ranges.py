"""Builds that are told what to make: all of a table, or a range of its days."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.flows.builds import call, dvc_agrees, run_build
from tests.tiny import write

from headrace.config.settings import Settings, load_settings

TABLES = """
import polars as pl
from headrace import day, source, table

prices = source("prices", "data/prices.csv")

@table(reads=prices, partition_by=day("on"))
def dated(prices):
    return prices.with_columns(on=pl.date(2026, 11, pl.col("price")))

@table(reads=dated, partition_by=day("on"))
def per_day(rows):
    return rows.group_by("on").agg(pl.col("price").sum())
"""


@pytest.fixture
def dated(tmp_path: Path) -> Settings:
    return load_settings(write(tmp_path / "project", TABLES))


def test_a_range_is_announced_and_the_rest_is_made_by_the_next_build(dated: Settings) -> None:
    run_build(dated, "dated")
    range_of = ("per_day", "--from", "2026-11-02", "--to", "2026-11-30")
    out = call(dated, "build", *range_of)
    assert out.returncode == 0, out.stderr
    assert out.stdout.splitlines()[0] == "table-per_day: will make 1 day: 2026-11-02"
    assert "made 1 day: it was never made; 2026-11-02 was asked for" in out.stdout
    assert "a build of a range left out 1 partition" in call(dated, "build", "--dry-run").stdout
    assert run_build(dated) == ["table-per_day"]
    assert run_build(dated) == []
    assert dvc_agrees(dated)
    planned = call(dated, "build", *range_of, "--dry-run").stdout
    assert "table-per_day" in planned
    assert "from 2026-11-02 to 2026-11-30 was asked for" in planned
    assert run_build(dated, "per_day", "--full") == ["table-per_day"]
    assert run_build(dated) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "2026-11-02"), "a range of days is made of one table"),
        (("dated", "per_day", "--to", "2026-11-02"), "a range of days is made of one table"),
        (("dated", "--from", "yesterday"), "'yesterday' is not a valid day"),
        (("dated", "--full", "--from", "2026-11-02"), "--full makes every day"),
    ],
)
def test_a_wrong_range_is_refused(dated: Settings, arguments: tuple[str, ...], message: str) -> None:
    out = call(dated, "build", *arguments)
    assert out.returncode != 0
    assert message in out.stderr
