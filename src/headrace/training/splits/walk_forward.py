"""Splits rows by time into folds, each of which predicts the horizon after those that it learnt from."""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl

from headrace.declare.splits import WalkForward
from headrace.kernel.errors import Refused
from headrace.kernel.time import format_duration
from headrace.training.splits.port import MOMENT, Fold, LabelledFrame, Parts
from headrace.training.splits.sufficiency import check_classes

__all__ = ["divide_walk_forward"]

_INSTANT = timedelta(microseconds=1)


def divide_walk_forward(frame: LabelledFrame, split: WalkForward) -> Parts:
    """Cuts the rows at moments that lie a horizon apart, counted back from the last row.

    With three folds the windows a, b, c, d, each of a horizon, end with the last row: the folds are validated
    and tested on (a, b), (b, c) and (c, d), and each learns from all rows before its validation window. Rows
    within `split.gap` before a boundary are in no part of the fold whose boundary it is.

    Raises:
        Refused: a part would be empty, or lack classes that it needs.
    """
    rows = frame.rows.sort(MOMENT, maintain_order=True)
    if rows.is_empty():
        raise Refused("no labelled rows", remedy="Ingest events first, or send more.")
    end = rows[MOMENT][-1] + _INSTANT
    starts = [end - number * split.horizon for number in range(split.folds + 1, -1, -1)]
    folds = []
    for number in range(split.folds):
        fold = _cut(rows, starts[number], starts[number + 1], starts[number + 2], split.gap)
        _check_fold(fold, number, frame, split)
        folds.append(fold)
    dropped = len(rows) - sum(map(len, folds[-1]))
    boundaries = {"validation": starts[-3], "test": starts[-2]}
    description = f"walk-forward in {split.folds} folds of {format_duration(split.horizon)}"
    return Parts(tuple(folds), description, boundaries, dropped)


def _cut(rows: pl.DataFrame, validation: datetime, test: datetime, end: datetime, gap: timedelta) -> Fold:
    """The fold whose windows begin at these moments. Its parts are slices: they share the rows' memory."""

    def before(moment: datetime) -> int:
        return int(rows[MOMENT].search_sorted(moment, "left"))

    first, second, last = before(validation), before(test), before(end)
    return Fold(
        rows[: before(validation - gap)],
        rows[first : max(first, before(test - gap))],
        rows[second:last],
    )


def _check_fold(fold: Fold, number: int, frame: LabelledFrame, split: WalkForward) -> None:
    for name, part in fold.named:
        where = f"the {name} part of fold {number + 1} of {split.folds}"
        if part.is_empty():
            moments = frame.rows[MOMENT].sort()
            raise Refused(
                f"{where} is empty: the labels are from {moments[0]:%Y-%m-%d %H:%M} to "
                f"{moments[-1]:%Y-%m-%d %H:%M} UTC, and the windows take {split.folds + 1} times "
                f"{format_duration(split.horizon)}",
                remedy="Add labels over a longer time, or declare fewer folds or a shorter horizon.",
            )
        check_classes(where, name, part[frame.target], frame.classes)
