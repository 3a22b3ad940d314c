"""Builds that are told what to make: all of a table, or a range of its days."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.tiny import write

from headrace.cli.main import cli
from headrace.config.settings import Settings, load_settings
from headrace.flows.build import StageReport, build
from headrace.kernel.errors import CallError
from headrace.tables.range import BuildRange
from headrace.workspace import Workspace

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
RANGE = BuildRange(date(2026, 11, 2), date(2026, 11, 30))


@pytest.fixture
def dated(tmp_path: Path) -> Settings:
    return load_settings(write(tmp_path / "project", TABLES))


def run(
    settings: Settings, targets: Sequence[str] = (), only: BuildRange | None = None, dry_run: bool = False
) -> dict[str, str]:
    """Stage → what it did, of a build in this process."""
    with Workspace(settings) as workspace:
        report = build(workspace, targets, only=only, dry_run=dry_run)
    return {stage.stage: stage.what for stage in report.stages}


def test_a_range_is_announced_and_the_rest_is_made_by_the_next_build(dated: Settings) -> None:
    steps: list[StageReport] = []
    with Workspace(dated) as workspace:
        build(workspace, ["per_day"], only=RANGE, progress=steps.append)
    what = [step.what for step in steps if step.stage == "table-per_day"]
    last = "made 1 day: it was never made; 2026-11-02 was asked for"
    assert what == ["begins", "will make 1 day: 2026-11-02", "1 of 1 day", last]
    assert run(dated, dry_run=True) == {"table-per_day": "a build of a range left out 1 partition"}
    assert run(dated) == {"table-per_day": "made 1 day: a build of a range left out 2026-11-01"}
    assert run(dated) == {}
    planned = run(dated, ["per_day"], RANGE, dry_run=True)
    assert planned == {"table-per_day": "2026-11-02 to 2026-11-30 was asked for"}
    assert run(dated, ["per_day"], BuildRange()) == {"table-per_day": "made all of it: all of it was asked for"}
    assert run(dated) == {}


@pytest.mark.parametrize("targets", [[], ["dated", "per_day"], ["code"]])
def test_a_range_is_of_one_table(dated: Settings, targets: list[str]) -> None:
    with pytest.raises(CallError, match="a range of days is made of one table"):
        run(dated, targets, RANGE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--from", "yesterday"), "'yesterday' is not a valid day"),
        (("--full", "--from", "2026-11-02"), "--full makes every day"),
        (
            ("--from", "2026-11-30", "--to", "2026-11-02"),
            "the first day 2026-11-30 is after the last day 2026-11-02",
        ),
    ],
)
def test_a_wrong_range_is_refused(arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(cli, ["build", "dated", *arguments])
    assert result.exit_code != 0
    assert message in result.output + str(result.exception)
