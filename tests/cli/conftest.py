from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TABLES = """
import polars as pl
from headrace import source, table

prices = source("prices", "data/prices.csv")

@table(reads=prices)
def doubled(prices):
    return prices.with_columns(price=pl.col("price") * 2)

@table(reads=doubled)
def total(doubled):
    return doubled.select(pl.col("price").sum())
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of two tables on one file."""
    root = tmp_path / "project"
    (root / "tiny").mkdir(parents=True)
    (root / "data").mkdir()
    (root / "headrace.toml").write_text('[project]\nname = "tiny"\n')
    (root / "tiny" / "__init__.py").write_text("")
    (root / "tiny" / "tables.py").write_text(TABLES)
    (root / "data" / "prices.csv").write_text("price\n1\n2\n")
    return root


@pytest.fixture
def headrace() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line in a process of its own."""

    def call(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "headrace.cli.main", *arguments],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return call
