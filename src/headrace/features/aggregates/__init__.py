"""Aggregate functions, a class each: what it computes offline over ranges, and online from tiles.

A new function is a subclass of `Aggregate` and an entry in `_AGGREGATES`.
"""

from __future__ import annotations

import re

from headrace.features.aggregates.aggregate import Aggregate, TilePart, TileReader, Track
from headrace.features.aggregates.by_time import First, FirstN, Last, LastN
from headrace.features.aggregates.column import SortedColumn
from headrace.features.aggregates.counts import Count, CountDistinct
from headrace.features.aggregates.extremes import Max, Min
from headrace.features.aggregates.sketches import ApproximateCountDistinct, Percentile, TopK
from headrace.features.aggregates.spread import StandardDeviation, Variance
from headrace.features.aggregates.sums import CountIf, Mean, Sum
from headrace.features.plan import AggregateFunction, Dtype
from headrace.kernel.errors import ProjectError

__all__ = [
    "SPELLINGS",
    "Aggregate",
    "SortedColumn",
    "TilePart",
    "TileReader",
    "Track",
    "aggregate_of",
    "parse_function",
    "result_dtype",
]

_AGGREGATES: tuple[type[Aggregate], ...] = (
    Count,
    CountIf,
    Sum,
    Mean,
    Variance,
    StandardDeviation,
    Min,
    Max,
    CountDistinct,
    ApproximateCountDistinct,
    TopK,
    Percentile,
    First,
    FirstN,
    Last,
    LastN,
)
_BY_NAME = {kind.name: kind for kind in _AGGREGATES}
_BY_SPELLING = {spelling: kind for kind in _AGGREGATES for spelling in kind.spellings}
_CALL = re.compile(r"([a-z_]+)(?:\(\s*(\d+)\s*\))?")

SPELLINGS = tuple(_BY_SPELLING)
"""Every spelling of a function in an aggregation; `(n)` stands for a parameter."""


def parse_function(text: str, *, where: str | None = None) -> AggregateFunction:
    """Parses the function of an aggregation, such as `mean` or `last(5)`.

    Raises:
        ProjectError: the function does not exist, or its parameter is missing, superfluous or out of range.
    """
    match = _CALL.fullmatch(text.strip())
    name, argument = match.groups() if match else ("", None)
    kind = _BY_SPELLING.get(name if argument is None else f"{name}(n)")
    if kind is None:
        raise ProjectError(
            f"{text!r} is not an aggregate function",
            where=where,
            remedy=f"Use one of: {', '.join(SPELLINGS)}.",
        )
    if argument is None:
        return AggregateFunction(kind.name)
    n = int(argument)
    if not 1 <= n <= kind.largest_n:
        raise ProjectError(f"{text!r}: n must be between 1 and {kind.largest_n}", where=where)
    return AggregateFunction(kind.name, n)


def aggregate_of(function: AggregateFunction) -> Aggregate:
    """The implementation of a plan's function.

    Raises:
        ProjectError: this version of Headrace does not have the function.
    """
    if function.name not in _BY_NAME:
        raise ProjectError(
            f"the plan names the aggregate function {function.name!r}, unknown to this version of Headrace",
            remedy="Use the version of Headrace that compiled the plan, or a later one.",
        )
    return _BY_NAME[function.name](function.n)


def result_dtype(function: AggregateFunction, column: Dtype, *, where: str | None = None) -> Dtype:
    """The dtype of the function's result over a column of this dtype.

    Raises:
        ProjectError: the function does not accept such a column.
    """
    if column.startswith("list[") or column == "bytes":
        raise ProjectError(
            f"{function.name} does not accept a column of {column}",
            where=where,
            remedy="Give the table a column with the value to aggregate, and null in the other rows.",
        )
    try:
        return aggregate_of(function).result_dtype(column)
    except TypeError as error:
        raise ProjectError(f"{function.name} {error}", where=where) from error
