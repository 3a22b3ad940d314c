"""The splits, a module each. A new split is a module, a declaration, and a line in `_SPLITS`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from headrace.declare.splits import ByGroup, ByTime, Split, Stratified, WalkForward
from headrace.training.splits.by_group import divide_by_group
from headrace.training.splits.by_time import divide_by_time
from headrace.training.splits.port import Divide, LabelledFrame, Parts
from headrace.training.splits.stratified import divide_stratified
from headrace.training.splits.walk_forward import divide_walk_forward

__all__ = ["divide"]

_SPLITS: Mapping[type[Split], Divide] = {
    ByTime: divide_by_time,
    WalkForward: divide_walk_forward,
    Stratified: divide_stratified,
    ByGroup: divide_by_group,
}


def divide(
    rows: pl.DataFrame, split: Split, target: str, *, by_class: bool = True, keys: Sequence[str] = ()
) -> Parts:
    """Divides the rows as declared.

    Args:
        rows: the entity keys, the request's fields, `event_timestamp` (a UTC datetime), the target, and the
            features.
        split: the declared split.
        target: the target's column.
        by_class: whether the target is a class. If so, the train part gets every class, and each other part
            at least two.
        keys: the columns that name a row's entities.

    Raises:
        ProjectError: the split names a column that does not exist.
        Refused: the rows cannot be divided in this way.
    """
    return _SPLITS[type(split)](LabelledFrame(rows, target, by_class, tuple(keys)), split)
