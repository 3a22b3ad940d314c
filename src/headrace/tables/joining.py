"""Which types of a column may stand in one table, when its rows are made a part at a time.

Polars and Arrow join more: a time and a number become a number, true becomes 1. Such rows would not be those
that the function returned.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
from polars.datatypes import DataTypeClass

__all__ = ["can_join", "find_lost_digits"]

_EXACT = 2**53  # a 64-bit float holds every whole number up to this


def can_join(first: pl.DataType, second: pl.DataType) -> bool:
    """Whether values of both types can be in one column, and stay what they are; of two numbers the wider type
    holds both, and a column without values fits any.

    The units of times do not count, because the lake has one.
    """
    if isinstance(first, pl.Null) or isinstance(second, pl.Null):
        return True
    if isinstance(first, pl.List) and isinstance(second, pl.List):
        return can_join(_instance(first.inner), _instance(second.inner))
    if isinstance(first, pl.Struct) and isinstance(second, pl.Struct):
        types = {name: _instance(dtype) for name, dtype in second}
        return all(can_join(_instance(dtype), types[name]) for name, dtype in first if name in types)
    if isinstance(first, pl.Datetime) and isinstance(second, pl.Datetime):
        return (first.time_zone is None) == (second.time_zone is None)
    if first.is_numeric() and second.is_numeric():
        return not ((first.is_decimal() and second.is_float()) or (first.is_float() and second.is_decimal()))
    return first == second or (_is_text(first) and _is_text(second))


def find_lost_digits(columns: Sequence[pl.Series]) -> int | None:
    """A whole number that would lose digits if these columns of numbers became one column, beside a float."""
    if any(column.dtype.is_float() for column in columns):
        for column in columns:
            if column.dtype.is_integer():
                large = column.filter((column > _EXACT) | (column < -_EXACT))
                if len(large):
                    return int(large[0])
    return None


def _instance(dtype: DataTypeClass | pl.DataType) -> pl.DataType:
    return dtype if isinstance(dtype, pl.DataType) else dtype()


def _is_text(dtype: pl.DataType) -> bool:
    return dtype == pl.String or isinstance(dtype, (pl.Categorical, pl.Enum))
