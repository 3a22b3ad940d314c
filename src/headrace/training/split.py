"""Split by time: the model is tried on what came after everything it learnt from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from headrace.declare.model import ByTime
from headrace.kernel.errors import Refused
from headrace.kernel.time import format_duration

__all__ = ["Parts", "by_time"]

MOMENT = "event_timestamp"


@dataclass(frozen=True)
class Parts:
    """The parts of a training set, each in the order of the label's time.

    Attributes:
        train, validation, test: rows.
        validation_from, test_from: the first moment of the part.
        dropped: how many rows lay in the gaps.
    """

    train: pl.DataFrame
    validation: pl.DataFrame
    test: pl.DataFrame
    validation_from: datetime
    test_from: datetime
    dropped: int

    def __iter__(self) -> Iterator[tuple[str, pl.DataFrame]]:
        return iter((("train", self.train), ("validation", self.validation), ("test", self.test)))


def by_time(rows: pl.DataFrame, split: ByTime, target: str) -> Parts:
    """The rows divided at two moments, so that about the wanted shares come after them.

    Rows of one moment stay together. Those within `split.gap` before a boundary are in no part:
    their labels were decided by what happened after it.

    Args:
        rows: `event_timestamp` (a UTC datetime), the target (0 or 1), anything else.
        split: the shares and the gap.
        target: the label's column.

    Raises:
        Refused: a part would be empty, or has one class only.
    """
    rows = rows.sort(MOMENT, maintain_order=True)
    moments = rows[MOMENT]
    if len(moments) < 3:
        raise Refused(f"{len(moments)} labelled rows can't be split in three", remedy="Send more events first.")
    validation_from = moments[int(len(rows) * (1 - split.validation - split.test))]
    test_from = moments[int(len(rows) * (1 - split.test))]
    train = rows.filter(pl.col(MOMENT) < validation_from - split.gap)
    validation = rows.filter(pl.col(MOMENT) >= validation_from, pl.col(MOMENT) < test_from - split.gap)
    test = rows.filter(pl.col(MOMENT) >= test_from)
    kept = len(train) + len(validation) + len(test)
    parts = Parts(train, validation, test, validation_from, test_from, len(rows) - kept)
    for name, part in parts:
        _check(name, part, rows, split, target)
    return parts


def _check(name: str, part: pl.DataFrame, rows: pl.DataFrame, split: ByTime, target: str) -> None:
    span = f"{len(rows)} rows from {rows[MOMENT][0]:%Y-%m-%d %H:%M} to {rows[MOMENT][-1]:%Y-%m-%d %H:%M} UTC"
    if part.is_empty():
        raise Refused(
            f"the {name} part of {span} would be empty with a gap of {format_duration(split.gap)}",
            remedy="Send events over a longer time, or make the gap or the other parts smaller.",
        )
    if part[target].n_unique() < 2:
        raise Refused(
            f"the {name} part of {span} has one class only: {target} is always {part[target][0]}",
            remedy="Send more events, or give this part a larger share.",
        )
