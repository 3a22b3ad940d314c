"""Which rules can be decided for each row by itself.

The expression is read as polars writes it. Whatever is not known to look at one row at a time (`.over(...)`,
`.sum()`, `.is_unique()`, a Python function) may look at several.
"""

from __future__ import annotations

import json
from typing import Any

import polars as pl
from polars.exceptions import PolarsError

__all__ = ["is_row_rule"]

_FAMILIES = {"ListExpr", "StringExpr", "StructExpr", "TemporalExpr"}
_FUNCTIONS = {
    *("Abs", "AsStruct", "Ceil", "Coalesce", "FillNull", "Floor", "Round"),
    *("MaxHorizontal", "MeanHorizontal", "MinHorizontal", "SumHorizontal"),
}
_TESTS = {
    *("AllHorizontal", "AnyHorizontal", "IsBetween", "IsFinite", "IsInfinite"),
    *("IsNan", "IsNotNan", "IsNotNull", "IsNull", "Not"),
}


def is_row_rule(rule: pl.Expr) -> bool:
    """Whether the rule can be decided for each row by itself."""
    try:
        return _is_of_row(json.loads(rule.meta.serialize(format="json")))
    except (PolarsError, ValueError):  # polars cannot write it
        return False


def _is_of_row(node: Any) -> bool:
    if not isinstance(node, dict):
        return False
    ((kind, content),) = node.items()
    if kind == "Column":
        return True
    if kind == "Literal":
        return "Series" not in content  # a series has a value for each row
    if kind == "BinaryExpr":
        return _is_of_row(content["left"]) and _is_of_row(content["right"])
    if kind == "Ternary":
        return all(_is_of_row(content[part]) for part in ("predicate", "truthy", "falsy"))
    if kind in ("Cast", "Eval"):  # Eval: an expression over the values of each row's list
        return _is_of_row(content["expr"])
    if kind == "Alias":
        return _is_of_row(content[0])
    return kind == "Function" and _is_row_function(content["function"], content["input"])


def _is_row_function(function: Any, inputs: list[Any]) -> bool:
    name, detail = next(iter(function.items())) if isinstance(function, dict) else (function, None)
    if name == "Boolean":
        name = next(iter(detail)) if isinstance(detail, dict) else detail
        if name == "IsIn":
            return "Literal" in inputs[1] and _is_of_row(inputs[0])
        is_known = name in _TESTS
    else:
        is_known = name in _FUNCTIONS or (name in _FAMILIES and not _looks_at_rows(detail))
    return is_known and all(_is_of_row(part) for part in inputs)


def _looks_at_rows(detail: Any) -> bool:
    """Whether a function of a family joins rows, or infers the format of a text from the first of them."""
    if isinstance(detail, dict) and "Strptime" in detail:
        return bool(detail["Strptime"][-1]["format"] is None)
    return "ConcatVertical" in str(detail)
