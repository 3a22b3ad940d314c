"""Splits rows at random, with all rows of a group in the same part."""

from __future__ import annotations

from headrace.declare.splits import ByGroup
from headrace.kernel.counts import plural
from headrace.kernel.errors import ProjectError, Refused
from headrace.training.splits.hashing import random_of
from headrace.training.splits.port import MOMENT, Fold, LabelledFrame, Parts
from headrace.training.splits.sufficiency import check_classes

__all__ = ["divide_by_group"]


def divide_by_group(frame: LabelledFrame, split: ByGroup) -> Parts:
    """Puts each group into a part by the hash of its value. Rows without a value are one group.

    Raises:
        ProjectError: the column does not exist.
        Refused: a part is empty, or lacks classes that it needs.
    """
    if split.column not in frame.rows.columns:
        raise ProjectError(
            f"the column {split.column!r} of the split ByGroup does not exist",
            remedy=f"The training set has: {', '.join(frame.rows.columns)}.",
        )
    rows = frame.rows.sort(MOMENT, maintain_order=True)
    number = random_of(rows.select(split.column), split.seed)
    train_from = split.test + split.validation
    masks = number >= train_from, (number >= split.test) & (number < train_from), number < split.test
    fold = Fold(*(rows.filter(mask) for mask in masks))
    for name, part in fold.named:
        where = f"the {name} part of {plural(rows[split.column].n_unique(), 'group')} by {split.column}"
        if part.is_empty():
            raise Refused(f"{where} is empty", remedy="Declare a larger share for it, or another seed.")
        check_classes(where, name, part[frame.target], frame.classes)
    description = f"random by {split.column}, all rows of one in the same part, seed {split.seed}; not by time"
    return Parts((fold,), description)
