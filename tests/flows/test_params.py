"""params.yaml as DVC parameters of the stages whose code reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.flows.builds import call, commit, dvc_agrees, git, run_build
from tests.tiny import write

from headrace import lake
from headrace.config.settings import Settings, load_settings

TABLES = """
import polars as pl
from headrace import params, source, table

prices = source("prices", "data/prices.csv")
FACTOR = params("scale.factor")

def scaled(frame):
    return frame.with_columns(price=pl.col("price") * FACTOR)

@table(reads=prices)
def doubled(prices):
    return scaled(prices)

@table(reads=doubled)
def total(doubled):
    return doubled.select(pl.col("price").sum())

@table(reads=prices)
def count(prices):
    return prices.select(rows=pl.lit(params_of_count["unit"]) * pl.len())

params_of_count = params("count")
"""


@pytest.fixture
def project(tmp_path: Path) -> Settings:
    root = write(tmp_path / "project", TABLES)
    write_params(root, 2, 1)
    return load_settings(root)


def write_params(root: Path, factor: int, unit: int, more: str = "") -> None:
    (root / "params.yaml").write_text(f"scale: {{factor: {factor}}}\ncount: {{unit: {unit}}}\n{more}")


def values(settings: Settings) -> tuple[int, int]:
    tables = lake.open(settings)
    return tuple(tables.table(name).scan().collect().item() for name in ("total", "count"))


def test_a_changed_entry_reruns_its_readers_alone_and_dvc_agrees(project: Settings) -> None:
    run_build(project)
    assert values(project) == (6, 2)
    write_params(project.root, 2, 1, "# a comment\nunused: 1\n")
    assert run_build(project) == []
    assert dvc_agrees(project)
    write_params(project.root, 3, 1)
    assert not dvc_agrees(project)
    assert call(project, "build", "--dry-run").stdout.count("params.yaml: scale.factor") == 1
    assert run_build(project) == ["table-doubled", "table-total"]
    assert values(project) == (9, 2)
    assert dvc_agrees(project)


def test_dvc_shows_the_changed_entries_that_stages_read(project: Settings) -> None:
    git(project, "init", "-q")
    run_build(project)
    commit(project, "v1")
    write_params(project.root, 3, 1, "unused: 1\n")
    text = (project.root / "dvc.yaml").read_text()
    assert "    - params.yaml:\n      - scale.factor\n" in text
    assert "    - params.yaml:\n      - count\n" in text
    diff = json.loads(call(project, "dvc", "params", "diff", "--json").stdout)
    assert diff["params.yaml"]["scale.factor"] == {"old": 2, "new": 3, "diff": 1}


def test_plain_dvc_repro_takes_a_changed_entry_and_the_build_agrees(project: Settings) -> None:
    run_build(project)
    write_params(project.root, 2, 5)
    out = call(project, "dvc", "repro")
    assert out.returncode == 0, out.stderr
    assert values(project) == (6, 10)
    assert run_build(project) == []


def test_an_entry_whose_name_is_computed_depends_on_the_whole_file(project: Settings) -> None:
    tables = project.root / "tiny" / "tables.py"
    tables.write_text(tables.read_text().replace('params("count")', 'params("cou" + "nt")'))
    run_build(project)
    write_params(project.root, 2, 1, "unused: 1\n")
    assert "table-count" in call(project, "build", "--dry-run").stdout
    assert run_build(project) == ["table-count"]
    assert dvc_agrees(project)


def test_an_entry_that_is_removed_stops_the_build_and_names_it(project: Settings) -> None:
    run_build(project)
    (project.root / "params.yaml").write_text("scale: {factor: 2}\n")
    out = call(project, "build")
    assert out.returncode != 0
    assert "params.yaml has no entry 'count'" in out.stderr
