"""The functions an aggregation may name."""

from __future__ import annotations

import re

from headrace.features.plan import AggregateFunction, Dtype
from headrace.kernel.errors import ProjectError

__all__ = ["FUNCTIONS", "parse_function", "result_dtype"]

FUNCTIONS = ("count", "sum", "mean", "avg", "min", "max", "count_distinct", "first", "last", "last(n)")
"""As they are written in an aggregation; `avg` is `mean`."""

_CALL = re.compile(r"([a-z_]+)(?:\(\s*(\d+)\s*\))?")
_MOST = 1000  # of last(n): each entity's state holds n values a tile


def parse_function(text: str, *, where: str | None = None) -> AggregateFunction:
    """The function that an aggregation's text names.

    Raises:
        ProjectError: there is no such function, or its parameter is missing, not wanted or too big.
    """
    match = _CALL.fullmatch(text.strip())
    name, argument = match.groups() if match else (text, None)
    if name == "last" and argument is not None:
        n = int(argument)
        if not 1 <= n <= _MOST:
            raise ProjectError(f"{text!r}: n must lie in 1..{_MOST}", where=where)
        return AggregateFunction("last_n", n)
    if match is None or name not in FUNCTIONS or argument is not None:
        raise ProjectError(
            f"there is no aggregate function {text!r}",
            where=where,
            remedy=f"There are: {', '.join(FUNCTIONS)}.",
        )
    return AggregateFunction("mean" if name == "avg" else name)


def result_dtype(function: AggregateFunction, column: Dtype, *, where: str | None = None) -> Dtype:
    """The dtype of the function's result over a column of this dtype.

    Raises:
        ProjectError: the function does not take such a column.
    """
    kind = function.name
    if column.startswith("list["):
        raise ProjectError(
            f"{kind} takes no column of {column}",
            where=where,
            remedy="Give the table a column that says what is counted, and is null in the other rows.",
        )
    if kind in ("count", "count_distinct"):
        return "int64"
    if kind == "mean" or kind == "sum":
        if column not in ("int64", "float64", "bool"):
            raise ProjectError(f"{kind} needs numbers, but the column is {column}", where=where)
        return "float64" if kind == "mean" or column == "float64" else "int64"
    if kind == "last_n":
        return f"list[{column}]"  # type: ignore[return-value]
    return column
