"""Splits: how labelled rows are divided into train, validation and test.

This module only declares; `training.splits` divides the rows.
"""

from __future__ import annotations

from datetime import timedelta

import attrs

from headrace.declare.convert import to_duration
from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError

__all__ = ["ByGroup", "ByTime", "Split", "Stratified", "WalkForward"]


@attrs.frozen
class Split:
    """The base class of every split's declaration."""


@attrs.frozen
class ByTime(Split):
    """A split by the label's time: train, then validation, then test, with `gap` between them.

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
        _check_shares(self.validation, self.test)
        if self.gap < timedelta(0):
            raise ProjectError(f"gap={self.gap} must not be negative", where=str(Place.of_caller()))


@attrs.frozen
class WalkForward(Split):
    """A split by time into folds that begin later and later; the test part is the last fold's.

    Each fold ends with a test window of `horizon`, before it a validation window of the same length, and before
    that its train part, which begins with the first row. The model is fitted and evaluated in each fold.

    Attributes:
        folds: the number of folds.
        horizon: the length of a window: how far ahead the model predicts. Text such as `28d`, or a timedelta.
        gap: rows within this time before a boundary are dropped, as in ByTime.

    Raises:
        ProjectError: `folds` is below 2, or a duration is not valid.
    """

    folds: int = 3
    horizon: timedelta = attrs.field(converter=to_duration, kw_only=True)
    gap: timedelta = attrs.field(default=timedelta(0), converter=to_duration, kw_only=True)

    def __attrs_post_init__(self) -> None:
        place = str(Place.of_caller())
        if self.folds < 2:
            raise ProjectError(f"folds={self.folds} must be 2 or more", where=place)
        if self.horizon <= timedelta(0):
            raise ProjectError(f"horizon={self.horizon} must be positive", where=place)
        if not timedelta(0) <= self.gap < self.horizon:
            raise ProjectError(f"gap={self.gap} must be at least 0 and less than the horizon", where=place)


@attrs.frozen
class Stratified(Split):
    """A random split in which every part has the same share of each class. It does not regard time.

    A row's place follows from the seed and its entity keys, so that an entity stays in its part when rows are
    added, except for a few at the parts' boundaries.

    Attributes:
        seed: another seed gives another division.
        validation, test: shares of the rows, 0 to 1.

    Raises:
        ProjectError: the shares leave no train part.
    """

    seed: int = 0
    validation: float = attrs.field(default=0.15, kw_only=True)
    test: float = attrs.field(default=0.15, kw_only=True)

    def __attrs_post_init__(self) -> None:
        _check_shares(self.validation, self.test)


@attrs.frozen
class ByGroup(Split):
    """A random split in which all rows of a group are in the same part. It does not regard time.

    A group's part follows from the seed and the group's value alone, so that it stays in its part when others
    are added.

    Attributes:
        column: what groups the rows: an entity key, a field of the request or a feature.
        seed: another seed gives another division.
        validation, test: shares of the groups, 0 to 1; met about.

    Raises:
        ProjectError: the shares leave no train part.
    """

    column: str
    seed: int = 0
    validation: float = attrs.field(default=0.15, kw_only=True)
    test: float = attrs.field(default=0.15, kw_only=True)

    def __attrs_post_init__(self) -> None:
        _check_shares(self.validation, self.test)


def _check_shares(validation: object, test: object) -> None:
    shares = [share for share in (validation, test) if isinstance(share, int | float) and 0 < share < 1]
    if len(shares) < 2 or sum(shares) >= 1:
        raise ProjectError(
            f"validation={validation!r} and test={test!r} must be between 0 and 1, and leave a train part",
            where=str(Place.of_caller()),
        )
