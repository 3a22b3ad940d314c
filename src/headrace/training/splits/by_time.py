"""Split by time: the model is evaluated on what came after everything it learnt from."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.declare.splits import ByTime
from headrace.kernel.errors import Refused
from headrace.kernel.time import format_duration, from_micros
from headrace.training.splits.port import MOMENT, Fold, Parts

__all__ = ["divide_by_time"]

_CANDIDATES = 200


def divide_by_time(rows: pl.DataFrame, split: ByTime, target: str, by_class: bool = True) -> Parts:
    """The rows divided at two moments, so that about the wanted shares come after them.

    Rows of one moment stay together. Those within `split.gap` before a boundary are in no part:
    their labels were decided by what happened after it. Where the wanted shares leave a part empty
    or without the classes it needs (few rows, or unevenly spread ones), the boundaries move to where every
    part has them and the shares are nearest to those wanted.

    Args:
        rows: `event_timestamp` (a UTC datetime), the target, anything else.
        split: the shares and the gap.
        target: the label's column.
        by_class: whether the target is a class: then the train part needs every class, the others two or more.

    Raises:
        Refused: a part would be empty, or lack classes, wherever the boundaries are.
    """
    rows = rows.sort(MOMENT, maintain_order=True)
    if len(rows) < 3:
        raise Refused(
            f"{len(rows)} labelled rows can't be split in three",
            remedy="Three are the least, at different times.",
        )
    at = [int(len(rows) * (1 - split.validation - split.test)), int(len(rows) * (1 - split.test))]
    wanted = _cut(rows, rows[MOMENT][at[0]], rows[MOMENT][at[1]], split)
    classes = rows[target].n_unique() if by_class else 0
    if all(_suffices(name, part, target, classes) for name, part in wanted):
        return wanted
    moved = _nearest(rows, split, target, classes)
    if moved is not None:
        return _cut(rows, *moved, split)
    for name, part in wanted:
        _check(name, part, rows, split, target, classes)
    raise AssertionError("every part suffices and yet no boundaries were found")


def _cut(rows: pl.DataFrame, validation_from: datetime, test_from: datetime, split: ByTime) -> Parts:
    train = rows.filter(pl.col(MOMENT) < validation_from - split.gap)
    validation = rows.filter(pl.col(MOMENT) >= validation_from, pl.col(MOMENT) < test_from - split.gap)
    test = rows.filter(pl.col(MOMENT) >= test_from)
    dropped = len(rows) - len(train) - len(validation) - len(test)
    boundaries = {"validation": validation_from, "test": test_from}
    return Parts((Fold(train, validation),), test, boundaries, dropped)


def _least_classes(name: str, classes: int) -> int:
    """How many classes the part must have, of so many in all; 0: the target is not a class."""
    if not classes:
        return 0
    return max(2, classes) if name == "train" else 2


def _suffices(name: str, part: pl.DataFrame, target: str, classes: int) -> bool:
    return len(part) > 0 and (not classes or part[target].n_unique() >= _least_classes(name, classes))


def _nearest(rows: pl.DataFrame, split: ByTime, target: str, classes: int) -> tuple[datetime, datetime] | None:
    """The boundaries at which every part suffices and the shares are nearest to those wanted.

    The candidates are all pairs of some 200 moments, as many rows apart.
    """
    moments = rows[MOMENT].dt.epoch("us").to_numpy()
    counts = _running_counts(rows[target]) if classes else np.arange(len(rows) + 1)[None, :]
    candidates = np.unique(moments[np.linspace(0, len(moments) - 1, _CANDIDATES).astype(int)])
    begins = np.searchsorted(moments, candidates)  # the first row from each boundary on
    ends = np.searchsorted(moments, candidates - split.gap // timedelta(microseconds=1))  # and before its gap
    first, second = (
        grid.ravel() for grid in np.meshgrid(np.arange(len(candidates)), np.arange(len(candidates)))
    )
    enough, distance = np.ones(len(first), bool), np.zeros(len(first))
    last = np.full(len(first), len(moments))
    parts = {
        "train": (np.zeros_like(first), ends[first], 1 - split.validation - split.test),
        "validation": (begins[first], ends[second], split.validation),
        "test": (begins[second], last, split.test),
    }
    for name, (start, end, share) in parts.items():
        present = sum((of_class[np.maximum(end, start)] > of_class[start]).astype(int) for of_class in counts)
        enough &= present >= max(1, _least_classes(name, classes))
        distance += ((end - start) / len(moments) - share) ** 2
    if not enough.any():
        return None
    best = int(np.argmin(np.where(enough, distance, np.inf)))
    return from_micros(int(candidates[first[best]])), from_micros(int(candidates[second[best]]))


def _running_counts(target: pl.Series) -> npt.NDArray[np.int32]:
    """For each class, how many of the first n rows are of it: shape (classes, rows + 1)."""
    codes = target.rank("dense").to_numpy().astype(np.int64) - 1
    counts = np.zeros((codes.max() + 1, len(codes) + 1), np.int32)
    counts[codes, np.arange(1, len(codes) + 1)] = 1
    return counts.cumsum(axis=1, dtype=np.int32)


def _check(name: str, part: pl.DataFrame, rows: pl.DataFrame, split: ByTime, target: str, classes: int) -> None:
    span = f"{len(rows)} rows from {rows[MOMENT][0]:%Y-%m-%d %H:%M} to {rows[MOMENT][-1]:%Y-%m-%d %H:%M} UTC"
    if part.is_empty():
        raise Refused(
            f"the {name} part of {span} would be empty with a gap of {format_duration(split.gap)}",
            remedy="It needs labels of a longer time, or a smaller gap or other parts."
            if rows[MOMENT][0] != rows[MOMENT][-1]
            else "A model is evaluated on labels later than those it learnt from: give them different times.",
        )
    present = part[target].n_unique()
    if present == 1 and classes:
        raise Refused(
            f"the {name} part of {span} has one class only: {target} is always {part[target][0]}",
            remedy="It needs more labels, or a larger share for this part.",
        )
    if present < _least_classes(name, classes):
        raise Refused(
            f"the {name} part of {span} has {present} of the {classes} classes of {target}",
            remedy="The model must learn every class: it needs more labels, or a larger share for this part.",
        )
