"""Edits of code that a table uses without naming it, of files and of variables make the whole table stale."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.command_line import call_headrace
from tests.tiny import write

from headrace import lake
from headrace.config.settings import Settings, load_settings
from headrace.flows.build.context import BuildContext
from headrace.kernel.errors import ProjectError
from headrace.workspace import Workspace

TABLES = """
import json, os
from pathlib import Path
import polars as pl
from headrace import day, source, table
from tiny import base

prices = source("prices", "data/prices.csv")
TAX = json.loads((Path(__file__).parents[1] / "tax.json").read_text())["tax"]

def make(added):
    @table(reads=prices)
    def made_by_factory(prices):
        return prices.select(pl.col("price").sum() + added)
    return made_by_factory

made_by_factory = make(1)

@table(reads=prices)
def patched(prices):
    return prices.select(pl.col("price").sum() + base.ADDED["all"])

@table(reads=prices, reads_files="tax.json")
def taxed(prices):
    return prices.select(pl.col("price").sum() + TAX)

@table(reads=prices, env="TINY_ADDED")
def from_environment(prices):
    return prices.select(pl.col("price").sum() + int(os.environ.get("TINY_ADDED", "0")))
"""
NAMES = ("made_by_factory", "patched", "taxed", "from_environment")


@pytest.fixture
def project(tmp_path: Path) -> Settings:
    root = write(tmp_path / "project", TABLES)
    (root / "tiny" / "base.py").write_text('ADDED = {"all": 0}\n')
    (root / "tiny" / "patch.py").write_text('from tiny import base\nbase.ADDED["all"] = 10\n')
    (root / "tiny" / "__init__.py").write_text("from tiny import patch\n")
    (root / "tax.json").write_text('{"tax": 100}')
    return load_settings(root)


def run_build(settings: Settings, *arguments: str, **environment: str) -> list[str]:
    """Builds in a separate process; returns the tables that it made, or in a dry run would make."""
    out = call_headrace("build", *arguments, folder=settings.root, environment={**os.environ, **environment})
    assert out.returncode == 0, out.stderr
    lines = [line.split()[0] for line in out.stdout.splitlines() if line.startswith("  ")]
    return [line.removeprefix("table-") for line in lines]


def totals(settings: Settings) -> dict[str, int]:
    return {name: lake.open(settings).table(name).scan().collect().item() for name in NAMES}


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_each_kind_of_edit_makes_only_its_table_stale(project: Settings) -> None:
    assert sorted(run_build(project)) == sorted(NAMES)
    assert totals(project) == {"made_by_factory": 4, "patched": 13, "taxed": 103, "from_environment": 3}
    assert run_build(project) == []

    edit(project.root / "tiny" / "tables.py", "make(1)", "make(1000)")
    assert run_build(project, "--dry-run") == ["made_by_factory"]
    assert run_build(project) == ["made_by_factory"]

    edit(project.root / "tiny" / "patch.py", "= 10", "= 20")
    assert run_build(project) == ["patched"]

    (project.root / "tax.json").write_text('{"tax": 200}')
    assert run_build(project, "--dry-run") == ["taxed"]
    assert run_build(project) == ["taxed"]

    assert run_build(project, "--dry-run", TINY_ADDED="7") == ["from_environment"]
    assert run_build(project, TINY_ADDED="7") == ["from_environment"]
    assert run_build(project, TINY_ADDED="7") == []
    assert totals(project) == {"made_by_factory": 1003, "patched": 23, "taxed": 203, "from_environment": 10}


def test_plain_dvc_repro_sees_a_file_that_a_table_reads(project: Settings) -> None:
    run_build(project)
    (project.root / "tax.json").write_text('{"tax": 300}')
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        ["dvc", "repro"], cwd=project.root, env={**os.environ, "PATH": path}, check=True, timeout=300
    )
    assert totals(project)["taxed"] == 303
    assert run_build(project) == []


def test_an_edit_between_fingerprint_and_import_stops_the_run_build(project: Settings) -> None:
    context = BuildContext(Workspace(project))
    assert context.source_digest  # a build also reads the files before it imports them
    edit(project.root / "tiny" / "tables.py", "make(1)", "make(2)")
    with pytest.raises(ProjectError, match="edited while the build was reading it"):
        context.project(features=False)


def test_a_file_outside_the_project_is_refused(project: Settings) -> None:
    edit(project.root / "tiny" / "tables.py", '"tax.json")\ndef', '"../tax.json")\ndef')
    out = call_headrace("build", folder=project.root)
    assert out.returncode != 0
    assert "reads_files='../tax.json' leads out of the project" in out.stderr
