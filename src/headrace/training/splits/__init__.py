"""The splits, a module each. A new split is a module, a declaration, and a line in `_SPLITS`."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from headrace.declare.splits import ByTime, Split
from headrace.training.splits.by_time import divide_by_time
from headrace.training.splits.port import Divide, Parts

__all__ = ["divide"]

_SPLITS: Mapping[type[Split], Divide] = {ByTime: divide_by_time}


def divide(rows: pl.DataFrame, split: Split, target: str, *, by_class: bool = True) -> Parts:
    """Divides the rows as declared.

    Args:
        rows: `event_timestamp` (a UTC datetime), the target, and any other columns.
        split: the declared split.
        target: the label's column.
        by_class: whether the target is a class. If so, the train part gets every class, and each other part at
            least two.

    Raises:
        Refused: the rows cannot be divided in this way.
    """
    return _SPLITS[type(split)](rows, split, target, by_class)
