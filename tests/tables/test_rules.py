"""The rules of each row are checked in one pass, with the result of checking each alone."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest

from headrace.declare.place import Place
from headrace.declare.table import Table
from headrace.tables.audits.port import AuditScope
from headrace.tables.audits.rules import RuleError, check_rules

ROWS = {"a": [1, 2, None, 4], "b": ["x", "y", "z", "w"]}


@pytest.fixture
def passes() -> list[int]:
    """One entry for each time that the rows are read."""
    return []


@pytest.fixture
def scope(passes: list[int]) -> AuditScope:
    def read(rows: pl.DataFrame) -> pl.DataFrame:
        passes.append(rows.height)
        return rows

    rows = pl.LazyFrame(ROWS).map_batches(read, schema=pl.Schema({"a": pl.Int64, "b": pl.String}))
    table = Table(name="rows", function=lambda: None, reads=(), place=Place("tables.py", 1))
    return AuditScope(table, rows, rows, {}, {}, 4, None, False, {}, {}, datetime(2024, 1, 1, tzinfo=UTC))


def test_rules_that_hold_read_the_rows_once(scope: AuditScope, passes: list[int]) -> None:
    rules = {"a": pl.col("a") > 0, "b": pl.col("b").is_not_null(), "c": pl.lit(True), "d": pl.col("a") < 9}
    assert check_rules(rules, scope) is None
    assert len(passes) == 1


def test_broken_rules_are_counted_alone_and_one_value_counts_for_every_row(scope: AuditScope) -> None:
    rules = {"low": pl.col("a") < 2, "never": pl.lit(False), "text": pl.col("b") != "x", "ok": pl.col("a") > 0}
    failure = check_rules(rules, scope)
    assert failure is not None
    assert failure.what == "low (2 rows); never (4 rows); text (1 row)"  # a null passes
    assert failure.failing == 7
    assert failure.rows is not None
    never = [(a, b, "never") for a, b in zip(ROWS["a"], ROWS["b"], strict=True)]
    assert failure.rows.rows() == [(2, "y", "low"), (4, "w", "low"), *never, (1, "x", "text")]


def test_a_rule_that_raises_is_named(scope: AuditScope) -> None:
    with pytest.raises(RuleError, match="the rule wrong fails"):
        check_rules({"fine": pl.col("a") > 0, "wrong": pl.col("b").str.to_integer() > 0}, scope)
