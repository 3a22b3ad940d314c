"""Rows that Feast's callers push: a value is converted only where nothing is lost, at any depth."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pandas as pd
import pytest

from headrace.features.feast.frames import to_polars, to_view_rows
from headrace.features.plan import AsOfView, PlanField
from headrace.kernel.errors import CallError

TIME = pd.Timestamp("2026-03-01T12:00:00Z")


def convert(dtype: Any, values: Any, key: Any = "a") -> list[Any]:
    view = AsOfView("facts", ("item",), "facts", "at", (PlanField("x", dtype),))
    frame = pd.DataFrame({"item": [key] * len(values), "at": TIME, "x": pd.Series(values, dtype="object")})
    return to_view_rows(to_polars(frame, "rows"), view, {"item": "string"})["x"].to_list()


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("int64", [7.0, None, 2.0**62], [7, None, 2**62]),
        ("int64", ["7", None], [7, None]),
        ("int64", [Decimal(7)], [7]),
        ("bool", [1, 0, None], [True, False, None]),
        ("bool", [1.0], [True]),
        ("bool", [None], [None]),
        ("float64", [1, None], [1.0, None]),
        ("float64", ["0.1"], [0.1]),
        ("list[int64]", [[2.0], None, []], [[2], None, []]),
        ("list[bool]", [[1, 0]], [[True, False]]),
        ("list[string]", [None, None], [None, None]),
        ("list[string]", [["a", None]], [["a", None]]),
    ],
)
def test_values_of_another_type_are_converted_where_nothing_is_lost(
    dtype: str, values: list[Any], expected: list[Any]
) -> None:
    assert list(map(repr, convert(dtype, values))) == list(map(repr, expected))


@pytest.mark.parametrize(
    ("dtype", "value", "text"),
    [
        ("int64", 7.5, "int64, and 7.5 is not a whole number"),
        ("int64", Decimal("7.5"), "int64, and 7.5 is not a whole number"),
        ("int64", TIME, "Datetime.*, not int64"),
        ("bool", 2, "bool, and 2 is not true or false"),
        ("bool", 0.5, "bool, and 0.5 is not true or false"),
        ("string", 5, "Int64, not string"),
        ("string", True, "Boolean, not string"),
        ("string", TIME, "Datetime.*, not string"),
        ("bytes", "text", "String, not bytes"),
        ("string", b"bytes", "Binary, not string"),
        ("list[int64]", [1.5, 2.0], r"list\[int64\], and 1.5 is not a whole number"),
        ("list[bool]", [0, 2], r"list\[bool\], and 2 is not true or false"),
        ("list[string]", [1], r"List\(Int64\), not list\[string\]"),
    ],
)
def test_a_value_that_would_change_is_refused_by_name(dtype: str, value: Any, text: str) -> None:
    with pytest.raises(
        CallError, match=f"'x' of the rows for feature view 'facts' is {text.removeprefix('is ')}"
    ):
        convert(dtype, [value])


def test_a_key_of_another_type_is_refused_by_name() -> None:
    with pytest.raises(CallError, match="'item' of the rows for feature view 'facts' is Int64, not string"):
        convert("int64", [1], key=5)
