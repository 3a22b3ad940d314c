"""Builds that publish a star schema to a real PostgreSQL."""

from __future__ import annotations

import sys
from pathlib import Path

import psycopg
import pytest
from tests.flows.builds import call, run_build
from tests.tiny import write

from headrace.config.settings import load_settings
from headrace.flows.build.published import is_published

TABLES = """
import polars as pl
from headrace import Dimension, Fact, publish, source, table

prices = source("prices", "data/prices.csv")

@table(reads=prices)
def sales(rows):
    return rows.with_columns(at=pl.datetime(2026, 4, 3, time_zone="UTC"), item=pl.col("price"))

items = Dimension("dim_item", sales, key="item", rows=lambda sales: sales.select("item").unique())
facts = Fact("fact_sales", sales, time="at", references={"item": items})

@publish(database="warehouse", facts=[facts])
def tiny():
    return {"total": "select sum(price) as total from fact_sales"}
"""


def test_a_killed_publication_is_repeated_and_one_that_is_done_is_not(
    tmp_path: Path, empty_database: str
) -> None:
    root = write(tmp_path / "project", TABLES)
    settings = load_settings(root)
    assert run_build(settings) == ["table-sales"]  # no database in this profile
    with (root / "headrace.toml").open("a") as file:
        file.write(f'[profile.local]\ndatabases = {{ warehouse = "{empty_database}" }}\n')
    with psycopg.connect(empty_database, autocommit=True) as connection:
        schema, total = "select to_regnamespace('tiny')", "select total from tiny.total"
        assert call(settings, "build", fault="publish.before_commit").returncode != 0
        assert connection.execute(schema).fetchone() == (None,)
        assert call(settings, "build", fault="publish.after_commit").returncode != 0
        assert connection.execute(total).fetchone() == (3,)
        before = connection.execute("select xmin::text from tiny.fact_sales").fetchall()
        assert run_build(settings) == ["publish-tiny"]
        assert connection.execute("select xmin::text from tiny.fact_sales").fetchall() == before
        connection.execute("drop schema tiny cascade")  # as after the restore of an older backup
        assert run_build(settings, "tiny") == ["publish-tiny"]
        assert connection.execute(total).fetchone() == (3,)
        connection.execute("drop schema tiny cascade")
        connection.execute("create schema tiny")  # another project's
    (root / "data" / "prices.csv").write_text("price\n4\n")
    foreign = call(settings, "build")
    assert "the schema 'tiny' exists in PostgreSQL, and was not published by Headrace" in foreign.stderr
    assert "table-sales" in foreign.stdout  # what does not need the schema is made
    refused = call(settings, "drop-table", "sales", "--yes")
    assert "table 'sales' is read by publication tiny" in refused.stderr


def test_without_psycopg_a_publication_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone has the pointer; the package is an extra."""
    (tmp_path / "headrace.toml").write_text(
        '[project]\nname = "tiny"\n[profile.local]\ndatabases = { warehouse = "postgresql://127.0.0.1:1/x" }\n'
    )
    for name in ("psycopg", "headrace.tables.warehouse.publication"):
        monkeypatch.setitem(sys.modules, name, None)
    assert is_published(load_settings(tmp_path), "tiny", "warehouse", {"sales": 1})
