"""Splits, a module each. One more split is its module, its declaration and its line in `_SPLITS`."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from headrace.declare.splits import ByTime, Split
from headrace.training.splits.by_time import divide_by_time
from headrace.training.splits.port import Divide, Parts

__all__ = ["divide"]

_SPLITS: Mapping[type[Split], Divide] = {ByTime: divide_by_time}


def divide(rows: pl.DataFrame, split: Split, target: str, *, by_class: bool = True) -> Parts:
    """The rows divided as declared.

    Args:
        rows: `event_timestamp` (a UTC datetime), the target, anything else.
        split: how.
        target: the label's column.
        by_class: whether the target is a class: then the train part has every class, and each other part two
            or more.

    Raises:
        Refused: no such division exists.
    """
    return _SPLITS[type(split)](rows, split, target, by_class)
