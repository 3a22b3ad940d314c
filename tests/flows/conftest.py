"""A tiny project of three tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny import write

from headrace.config.settings import Settings, load_settings

TABLES = """
import polars as pl
from headrace import source, table

prices = source("prices", "data/prices.csv")
FACTOR = 2  # how much

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
    return prices.select(rows=pl.len())
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Settings:
    """Three tables: doubled and count read one file, total reads doubled."""
    return load_settings(write(tmp_path / "project", TABLES))
