"""Splits: how labelled rows are divided into train, validation and test.

This module only declares; `training.splits` divides the rows.
"""

from __future__ import annotations

from datetime import timedelta

import attrs

from headrace.declare.convert import to_duration
from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError

__all__ = ["ByTime", "Split"]


@attrs.frozen
class Split:
    """The base class of every split's declaration."""


@attrs.frozen
class ByTime(Split):
    """Split by the label's time: train, then validation, then test, with `gap` between them.

    Attributes:
        validation, test: shares of the rows, 0 to 1.
        gap: rows within this time before a boundary are dropped. Set it to the label's horizon, so that no
            label of a part depends on events in the next part. Text such as `30m`, or a timedelta.

    Raises:
        ProjectError: the shares leave no train part, or the gap is not a duration.
    """

    validation: float = 0.15
    test: float = 0.15
    gap: timedelta = attrs.field(default=timedelta(0), converter=to_duration)

    def __attrs_post_init__(self) -> None:
        place = str(Place.of_caller())
        if not (0 < self.validation < 1 and 0 < self.test < 1 and self.validation + self.test < 1):
            raise ProjectError(
                f"validation={self.validation} and test={self.test} must be between 0 and 1, and leave a train"
                " part",
                where=place,
            )
        if self.gap < timedelta(0):
            raise ProjectError(f"gap={self.gap} must not be negative", where=place)
