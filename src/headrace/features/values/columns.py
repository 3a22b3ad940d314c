"""Columns of feature values in Polars: their dtypes, and the values that an aggregate counts.

The same values count offline and online: nulls and floats that are NaN or infinite do not count. -0.0 becomes
0.0, because equal values have no order. Strings are ordered by their code points.
"""

from __future__ import annotations

import polars as pl

from headrace.features.plan import Dtype

__all__ = ["POLARS", "countable", "micros_of", "total_order"]

POLARS: dict[Dtype, pl.DataType] = {
    "int64": pl.Int64(),
    "float64": pl.Float64(),
    "string": pl.String(),
    "bool": pl.Boolean(),
    "timestamp": pl.Datetime("us", "UTC"),
    "bytes": pl.Binary(),
    "list[int64]": pl.List(pl.Int64()),
    "list[float64]": pl.List(pl.Float64()),
    "list[string]": pl.List(pl.String()),
    "list[bool]": pl.List(pl.Boolean()),
    "list[timestamp]": pl.List(pl.Datetime("us", "UTC")),
    "list[bytes]": pl.List(pl.Binary()),
}
"""The Polars dtype for each dtype of a plan."""


def countable(column: str, dtype: Dtype) -> pl.Expr:
    """The column's values that an aggregate counts; other values become null.

    Floats stay floats, and strings stay strings; whole numbers, booleans (0, 1) and timestamps
    (microseconds) become Int64.
    """
    values = pl.col(column)
    if dtype == "float64":
        number = values.cast(pl.Float64)
        # -0.0 == 0.0; adding 0.0 instead would be optimised away.
        return pl.when(number == 0.0).then(pl.lit(0.0)).when(number.is_finite()).then(number)
    if dtype == "string":
        return values.cast(pl.String)
    if dtype == "timestamp":
        return micros_of(column)
    return values.cast(pl.Int64)


def total_order(column: str, dtype: Dtype) -> list[pl.Expr]:
    """What to sort a column by so that no two different values are equal: -0.0 comes before 0.0, null before
    all others, and NaN after them."""
    values, item = pl.col(column), pl.element()
    if dtype == "float64":
        return [values, pl.when(values == 0.0).then(1.0 / values)]
    if dtype == "list[float64]":
        return [values, values.list.eval(pl.when(item == 0.0).then(1.0 / item))]
    return [values]


def micros_of(column: str) -> pl.Expr:
    """A column of instants (a datetime of any unit, with a zone or in UTC) as Int64 microseconds."""
    return pl.col(column).dt.timestamp("us").cast(pl.Int64)
