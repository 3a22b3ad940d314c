"""The functions an aggregation may name, and the hop of a window. No engine is needed to read them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Literal

from msgspec import Struct

from headrace.kernel.errors import ProjectError

__all__ = ["FUNCTIONS", "Dtype", "Function", "hop_of", "parse_function", "result_dtype"]

Dtype = Literal[
    "int64", "float64", "string", "bool", "timestamp",
    "list[int64]", "list[float64]", "list[string]", "list[bool]", "list[timestamp]",
]  # fmt: skip

Kind = Literal["count", "sum", "mean", "min", "max", "count_distinct", "first", "last", "last_n"]

FUNCTIONS = ("count", "sum", "mean", "avg", "min", "max", "count_distinct", "first", "last", "last(n)")
"""As they are written in an aggregation; `avg` is `mean`."""

_CALL = re.compile(r"([a-z_]+)(?:\(\s*(\d+)\s*\))?")
_MOST = 1000  # of last(n): each entity's state holds n values a tile
_FIVE_MINUTES = timedelta(minutes=5)


class Function(Struct, frozen=True):
    """An aggregate function: its kind, and the n of `last(n)` (0 elsewhere)."""

    kind: Kind
    n: int = 0


def parse_function(text: str, *, where: str | None = None) -> Function:
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
        return Function("last_n", n)
    if match is None or name not in FUNCTIONS or argument is not None:
        raise ProjectError(
            f"there is no aggregate function {text!r}",
            where=where,
            remedy=f"There are: {', '.join(FUNCTIONS)}.",
        )
    return Function("mean" if name == "avg" else name)  # type: ignore[arg-type]


def result_dtype(function: Function, column: Dtype, *, where: str | None = None) -> Dtype:
    """The dtype of the function's result over a column of this dtype.

    Raises:
        ProjectError: the function does not take such a column.
    """
    kind = function.kind
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


def hop_of(window: timedelta, *, slide: timedelta | None = None, tiling: timedelta | None = None) -> timedelta:
    """How far a window's start moves at a time: it begins at floor(t - window, hop).

    Args:
        window: its length.
        slide: Feast's slide_interval; where it equals the window Feast has only copied it, and it
            says nothing.
        tiling: the view's tiling_hop_size, which goes before everything.

    Returns:
        What is named, else 1 d for windows of 12 d and more, 1 h for 12 h and more, else 5 min.

    Raises:
        ProjectError: the window or the hop is not positive, or the hop is longer than the window.
    """
    if tiling is not None:
        hop = tiling
    elif slide is not None and slide != window:
        hop = slide
    elif window >= timedelta(days=12):
        hop = timedelta(days=1)
    elif window >= timedelta(hours=12):
        hop = timedelta(hours=1)
    else:
        # A window shorter than five minutes slides by its own length at most.
        hop = min(_FIVE_MINUTES, window)
    if window <= timedelta(0) or not timedelta(0) < hop <= window:
        raise ProjectError(f"a window of {window} can't have a hop of {hop}: 0 < hop ≤ window")
    return hop
