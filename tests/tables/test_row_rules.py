"""Which rules are decided for each row by itself."""

from __future__ import annotations

import polars as pl
import pytest
from polars import col

from headrace.tables.audits.row_rules import is_row_rule

_ROW_RULES = {
    "greater": col("a") > 3,
    "with_another_column": (col("a") < col("b")) | col("a").is_null(),
    "text": col("s").str.contains("x") & (col("s").str.len_chars() <= 3),
    "time": col("t").dt.year().is_between(2020, 2030),
    "one_of": ~col("a").is_in([1, 2]),
    "one_of_a_series": col("a").is_in(pl.Series([1, 2])),
    "choice": pl.when(col("a") > 1).then(1).otherwise(col("a").abs().cast(pl.Float64)) > 0,
    "date": col("s").str.to_date("%Y-%m-%d", strict=False).is_not_null(),
    "list": col("l").list.eval(pl.element() > 1).list.all(),
}
_GROUP_RULES = {
    "group": col("a").sum().over("b") > 3,
    "count": pl.len().over("b") >= 2,
    "mean": col("a") > col("a").mean(),
    "unique": pl.struct("a", "b").is_unique(),
    "first": col("a").is_first_distinct(),
    "shift": col("a") > col("a").shift(),
    "series": col("a") == pl.Series([1, 2, 3]),
    "one_of_a_column": col("a").is_in(col("b").implode()),
    "joined": col("s").str.join() != "",
    "format_of_the_first_row": col("s").str.to_date(strict=False).is_not_null(),
    "function": col("a").map_batches(lambda values: values > values.mean(), return_dtype=pl.Boolean),
    "within": pl.when(col("a") == col("a").max()).then(True).otherwise(False),
}


@pytest.mark.parametrize("rule", _ROW_RULES.values(), ids=_ROW_RULES)
def test_a_rule_of_one_row_is_known(rule: pl.Expr) -> None:
    assert is_row_rule(rule)


@pytest.mark.parametrize("rule", _GROUP_RULES.values(), ids=_GROUP_RULES)
def test_a_rule_that_may_look_at_several_rows_is_not_taken_for_one_of_a_row(rule: pl.Expr) -> None:
    assert not is_row_rule(rule)
