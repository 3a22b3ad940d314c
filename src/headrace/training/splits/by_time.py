"""Splits rows by time, so that a model is evaluated on rows later than all those it learnt from."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.declare.splits import ByTime
from headrace.kernel.counts import plural
from headrace.kernel.errors import Refused
from headrace.kernel.time import format_duration, from_micros
from headrace.training.splits.port import MOMENT, Fold, LabelledFrame, Parts
from headrace.training.splits.sufficiency import check_classes, is_sufficient, least_classes

__all__ = ["divide_by_time"]

_CANDIDATES = 200


def divide_by_time(frame: LabelledFrame, split: ByTime) -> Parts:
    """Divides the rows at two moments, so that the parts have about the declared shares of the rows.

    Rows of one moment stay together. Rows within `split.gap` before a boundary are in no part, because what
    happened after the boundary decided their labels. If a part would be empty or lack classes that it needs
    (the rows are few or unevenly spread), the boundaries move to where every part is sufficient and the shares
    are nearest to the declared ones.

    Raises:
        Refused: a part would be empty, or lack classes, wherever the boundaries are.
    """
    target, classes = frame.target, frame.classes
    rows = frame.rows.sort(MOMENT, maintain_order=True)
    if len(rows) < 3:
        raise Refused(
            f"{plural(len(rows), 'labelled row')} cannot be split into three parts",
            remedy="At least three are needed, at different times.",
        )
    first, second = int(len(rows) * (1 - split.validation - split.test)), int(len(rows) * (1 - split.test))
    by_share = _cut(rows, rows[MOMENT][first], rows[MOMENT][second], split)
    if all(is_sufficient(name, part[target], classes) for name, part in by_share):
        return by_share
    boundaries = _find_boundaries(rows, split, target, classes)
    if boundaries is not None:
        return _cut(rows, *boundaries, split)
    for name, part in by_share:
        _check_part(name, part, rows, split, target, classes)
    raise AssertionError("every part is sufficient and yet no boundaries were found")


def _cut(rows: pl.DataFrame, validation_from: datetime, test_from: datetime, split: ByTime) -> Parts:
    train = rows.filter(pl.col(MOMENT) < validation_from - split.gap)
    validation = rows.filter(pl.col(MOMENT) >= validation_from, pl.col(MOMENT) < test_from - split.gap)
    test = rows.filter(pl.col(MOMENT) >= test_from)
    dropped = len(rows) - len(train) - len(validation) - len(test)
    boundaries = {"validation": validation_from, "test": test_from}
    gap = f" with a gap of {format_duration(split.gap)}" if split.gap else ""
    return Parts((Fold(train, validation, test),), f"by time{gap}", boundaries, dropped)


def _find_boundaries(
    rows: pl.DataFrame, split: ByTime, target: str, classes: int
) -> tuple[datetime, datetime] | None:
    """The boundaries at which every part is sufficient and the shares are nearest to the declared ones.

    The candidates are all pairs of up to 200 moments, with equally many rows between them.
    """
    moments = rows[MOMENT].dt.epoch("us").to_numpy()
    counts = _running_counts(rows[target]) if classes else np.arange(len(rows) + 1)[None, :]
    candidates = np.unique(moments[np.linspace(0, len(moments) - 1, _CANDIDATES).astype(int)])
    begins = np.searchsorted(moments, candidates)  # the first row at or after each boundary
    ends = np.searchsorted(
        moments, candidates - split.gap // timedelta(microseconds=1)
    )  # the rows before its gap
    first, second = (
        grid.ravel() for grid in np.meshgrid(np.arange(len(candidates)), np.arange(len(candidates)))
    )
    is_sufficient, distance = np.ones(len(first), bool), np.zeros(len(first))
    last = np.full(len(first), len(moments))
    parts = {
        "train": (np.zeros_like(first), ends[first], 1 - split.validation - split.test),
        "validation": (begins[first], ends[second], split.validation),
        "test": (begins[second], last, split.test),
    }
    for name, (start, end, share) in parts.items():
        present = sum((of_class[np.maximum(end, start)] > of_class[start]).astype(int) for of_class in counts)
        is_sufficient &= present >= max(1, least_classes(name, classes))
        distance += ((end - start) / len(moments) - share) ** 2
    if not is_sufficient.any():
        return None
    best = int(np.argmin(np.where(is_sufficient, distance, np.inf)))
    return from_micros(int(candidates[first[best]])), from_micros(int(candidates[second[best]]))


def _running_counts(target: pl.Series) -> npt.NDArray[np.int32]:
    """For each class and each n, how many of the first n rows belong to it: shape (classes, rows + 1)."""
    codes = target.rank("dense").to_numpy().astype(np.int64) - 1
    counts = np.zeros((codes.max() + 1, len(codes) + 1), np.int32)
    counts[codes, np.arange(1, len(codes) + 1)] = 1
    return counts.cumsum(axis=1, dtype=np.int32)


def _check_part(
    name: str, part: pl.DataFrame, rows: pl.DataFrame, split: ByTime, target: str, classes: int
) -> None:
    first, last = rows[MOMENT][0], rows[MOMENT][-1]
    span = f"{plural(len(rows), 'row')} from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
    if part.is_empty():
        raise Refused(
            f"the {name} part of {span} would be empty with a gap of {format_duration(split.gap)}",
            remedy="Add labels over a longer time, or declare a smaller gap or other shares."
            if rows[MOMENT][0] != rows[MOMENT][-1]
            else "A model is evaluated on labels later than those it learnt from: they need different times.",
        )
    check_classes(f"the {name} part of {span}", name, part[target], classes)
