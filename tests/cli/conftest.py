"""A small project, and the command line in a separate process."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests import tiny
from tests.command_line import call_headrace

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
    return tiny.write(tmp_path / "project", TABLES)


@pytest.fixture
def headrace() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line in a separate process."""

    def call(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return call_headrace(*arguments, folder=cwd)

    return call
