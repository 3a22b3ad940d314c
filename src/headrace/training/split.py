"""Split by time: the model is tried on what came after everything it learnt from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl

from headrace.declare.model import ByTime
from headrace.kernel.errors import Refused
from headrace.kernel.time import format_duration, from_micros

__all__ = ["Parts", "by_time"]

MOMENT = "event_timestamp"
_TRIED = 200


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
    their labels were decided by what happened after it. Where the wanted shares leave a part empty
    or with one class only (few rows, or unevenly spread ones), the boundaries move to where every
    part has both classes and the shares are nearest to those wanted.

    Args:
        rows: `event_timestamp` (a UTC datetime), the target (0 or 1), anything else.
        split: the shares and the gap.
        target: the label's column.

    Raises:
        Refused: a part would be empty, or have one class only, wherever the boundaries are.
    """
    rows = rows.sort(MOMENT, maintain_order=True)
    if len(rows) < 3:
        raise Refused(
            f"{len(rows)} labelled rows can't be split in three",
            remedy="Three are the least, at different times.",
        )
    at = [int(len(rows) * (1 - split.validation - split.test)), int(len(rows) * (1 - split.test))]
    wanted = _parts(rows, rows[MOMENT][at[0]], rows[MOMENT][at[1]], split)
    if _whole(wanted, target):
        return wanted
    moved = _nearest(rows, split, target)
    if moved is not None:
        return _parts(rows, *moved, split)
    for name, part in wanted:
        _check(name, part, rows, split, target)
    raise AssertionError("a part that is not whole was found whole")


def _parts(rows: pl.DataFrame, validation_from: datetime, test_from: datetime, split: ByTime) -> Parts:
    train = rows.filter(pl.col(MOMENT) < validation_from - split.gap)
    validation = rows.filter(pl.col(MOMENT) >= validation_from, pl.col(MOMENT) < test_from - split.gap)
    test = rows.filter(pl.col(MOMENT) >= test_from)
    kept = len(train) + len(validation) + len(test)
    return Parts(train, validation, test, validation_from, test_from, len(rows) - kept)


def _whole(parts: Parts, target: str) -> bool:
    return all(part[target].n_unique() > 1 for _, part in parts)


def _nearest(rows: pl.DataFrame, split: ByTime, target: str) -> tuple[datetime, datetime] | None:
    """The boundaries with both classes in every part whose shares are nearest to those wanted.

    Tried are all pairs of some 200 moments, as many rows apart.
    """
    moments = rows[MOMENT].dt.epoch("us").to_numpy()
    positives = np.concatenate([[0], np.cumsum(rows[target].to_numpy())])
    tried = np.unique(moments[np.linspace(0, len(moments) - 1, _TRIED).astype(int)])
    begins = np.searchsorted(moments, tried)  # the first row from each boundary on
    ends = np.searchsorted(moments, tried - split.gap // timedelta(microseconds=1))  # and before its gap
    first, second = (one.ravel() for one in np.meshgrid(np.arange(len(tried)), np.arange(len(tried))))
    whole, distance = np.ones(len(first), bool), np.zeros(len(first))
    shares = (1 - split.validation - split.test, split.validation, split.test)
    last = np.full(len(first), len(moments))
    for start, end, share in zip(
        (np.zeros_like(first), begins[first], begins[second]),
        (ends[first], ends[second], last),
        shares,
        strict=True,
    ):
        count = end - start
        bought = positives[np.maximum(end, start)] - positives[start]
        whole &= (bought > 0) & (bought < count)
        distance += (count / len(moments) - share) ** 2
    if not whole.any():
        return None
    best = int(np.argmin(np.where(whole, distance, np.inf)))
    return from_micros(int(tried[first[best]])), from_micros(int(tried[second[best]]))


def _check(name: str, part: pl.DataFrame, rows: pl.DataFrame, split: ByTime, target: str) -> None:
    span = f"{len(rows)} rows from {rows[MOMENT][0]:%Y-%m-%d %H:%M} to {rows[MOMENT][-1]:%Y-%m-%d %H:%M} UTC"
    if part.is_empty():
        raise Refused(
            f"the {name} part of {span} would be empty with a gap of {format_duration(split.gap)}",
            remedy="It needs labels of a longer time, or a smaller gap or other parts."
            if rows[MOMENT][0] != rows[MOMENT][-1]
            else "A model is tried on labels later than those it learnt from: give them times of their own.",
        )
    if part[target].n_unique() < 2:
        raise Refused(
            f"the {name} part of {span} has one class only: {target} is always {part[target][0]}",
            remedy="It needs more labels, or a larger share for this part.",
        )
