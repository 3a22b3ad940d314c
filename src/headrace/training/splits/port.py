"""The port that divides labelled rows into the parts of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import polars as pl
from msgspec import Struct, field

__all__ = ["MOMENT", "Divide", "Fold", "LabelledFrame", "Parts"]

MOMENT = "event_timestamp"
"""The column with the time of a label."""


class LabelledFrame(NamedTuple):
    """Rows to divide.

    Attributes:
        rows: the entity keys, the request's fields, `event_timestamp` (a UTC datetime), the target, and the
            features.
        target: the target's column.
        by_class: whether the target is a class. If so, the train part needs every class, and each other part
            at least two.
        keys: the columns that name a row's entities.
    """

    rows: pl.DataFrame
    target: str
    by_class: bool = True
    keys: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        """How many classes the target has; 0 if it is not a class."""
        return self.rows[self.target].n_unique() if self.by_class else 0


Divide = Callable[[LabelledFrame, Any], "Parts"]
"""Divides labelled rows as declared (declare.splits). Raises Refused if they cannot be divided in this way."""


class Fold(NamedTuple):
    """Rows to learn from, rows to compare the trials of a search on, and rows that only the evaluation uses."""

    train: pl.DataFrame
    validation: pl.DataFrame
    test: pl.DataFrame

    @property
    def named(self) -> Iterator[tuple[str, pl.DataFrame]]:
        """Each part with its name."""
        return zip(self._fields, self, strict=True)


class Parts(Struct, frozen=True):
    """The parts of a training set.

    Attributes:
        folds: a search compares its trials by the mean metric over the folds; the final fit uses the last fold.
        description: how the rows were divided, for the report.
        boundaries: part of the last fold → its first moment; empty if the split is not by time.
        dropped: how many rows are in no part.
    """

    folds: tuple[Fold, ...]
    description: str
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

    @property
    def test(self) -> pl.DataFrame:
        """The rows that only the evaluation uses."""
        return self.folds[-1].test

    def __iter__(self) -> Iterator[tuple[str, pl.DataFrame]]:
        return self.folds[-1].named
