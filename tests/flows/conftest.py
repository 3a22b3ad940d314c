from __future__ import annotations

from pathlib import Path

import pytest

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
    """Three tables on one file: total reads doubled, count stands alone."""
    root = tmp_path / "project"
    (root / "tiny").mkdir(parents=True)
    (root / "data").mkdir()
    (root / "headrace.toml").write_text('[project]\nname = "tiny"\n')
    (root / "tiny" / "__init__.py").write_text("")
    (root / "tiny" / "tables.py").write_text(TABLES)
    (root / "data" / "prices.csv").write_text("price\n1\n2\n")
    return load_settings(root)
