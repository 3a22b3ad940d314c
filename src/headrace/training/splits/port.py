"""The port that divides labelled rows into the parts of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import polars as pl

__all__ = ["MOMENT", "Divide", "Fold", "Parts"]

MOMENT = "event_timestamp"
"""The column with the time of a label."""

Divide = Callable[[pl.DataFrame, Any, str, bool], "Parts"]
"""Divides labelled rows.

Takes the rows (`event_timestamp`, the target, and any other columns), the declaration (declare.splits), the
target's column, and whether the target is a class. If so, the train part gets every class, and each other part
at least two. Raises Refused if the rows cannot be divided in this way.
"""


class Fold(NamedTuple):
    """Rows to learn from, and other rows to compare the trials of a search on."""

    train: pl.DataFrame
    validation: pl.DataFrame


@dataclass(frozen=True)
class Parts:
    """The parts of a training set.

    Attributes:
        folds: a search compares its trials by the mean metric over the folds; the final fit uses the last fold.
        test: the rows that only the evaluation uses.
        boundaries: part → its first moment; empty if the split is not by time.
        dropped: how many rows are in no part.
    """

    folds: tuple[Fold, ...]
    test: pl.DataFrame
    boundaries: Mapping[str, datetime] = field(default_factory=dict)
    dropped: int = 0

    @property
    def train(self) -> pl.DataFrame:
        """The rows that the final fit learns from."""
        return self.folds[-1].train

    @property
    def validation(self) -> pl.DataFrame:
        """The rows by which the final fit stops early."""
        return self.folds[-1].validation

    def __iter__(self) -> Iterator[tuple[str, pl.DataFrame]]:
        return iter((("train", self.train), ("validation", self.validation), ("test", self.test)))
