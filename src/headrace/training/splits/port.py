"""The port that a split implements: from labelled rows to the parts of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import polars as pl

__all__ = ["MOMENT", "Divide", "Fold", "Parts"]

MOMENT = "event_timestamp"
"""The column of a label's time."""

Divide = Callable[[pl.DataFrame, Any, str, bool], "Parts"]
"""Divides labelled rows.

Takes the rows (`event_timestamp`, the target, anything else), the declaration (declare.splits), the target's
column, and whether the target is a class: then the train part has every class, and each other part two or more.
Raises Refused where no such division exists.
"""


class Fold(NamedTuple):
    """Rows to learn from, and rows to compare settings on, none in both."""

    train: pl.DataFrame
    validation: pl.DataFrame


@dataclass(frozen=True)
class Parts:
    """The parts of a training set.

    Attributes:
        folds: a search compares settings by their mean metric over all; the last is that of the final fit.
        test: rows that nothing but the evaluation sees.
        boundaries: part → its first moment; empty where time does not divide the rows.
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
        """The rows that tell the final fit when to stop."""
        return self.folds[-1].validation

    def __iter__(self) -> Iterator[tuple[str, pl.DataFrame]]:
        return iter((("train", self.train), ("validation", self.validation), ("test", self.test)))
