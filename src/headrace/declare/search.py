"""The search for a model's hyperparameters, and its spaces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs

from headrace.declare.metrics import find_metric
from headrace.declare.place import Place
from headrace.kernel.errors import ProjectError

__all__ = [
    "ChoiceSpace",
    "FloatSpace",
    "IntegerSpace",
    "Space",
    "Tune",
    "choice",
    "integers",
    "loguniform",
    "uniform",
]


@attrs.frozen
class IntegerSpace:
    """Whole numbers from `low` to `high`, both included."""

    low: int
    high: int


@attrs.frozen
class FloatSpace:
    """Numbers from `low` to `high`, evenly on a linear or a logarithmic scale."""

    low: float
    high: float
    log: bool


@attrs.frozen
class ChoiceSpace:
    """One of the listed values."""

    values: tuple[Any, ...]


Space = IntegerSpace | FloatSpace | ChoiceSpace


def integers(low: int, high: int) -> IntegerSpace:
    """Whole numbers from `low` to `high`, both included."""
    return IntegerSpace(low, high)


def uniform(low: float, high: float) -> FloatSpace:
    """Numbers from `low` to `high`."""
    return FloatSpace(low, high, log=False)


def loguniform(low: float, high: float) -> FloatSpace:
    """Numbers from `low` to `high`, evenly on a logarithmic scale."""
    return FloatSpace(low, high, log=True)


def choice(*values: Any) -> ChoiceSpace:
    """One of the values."""
    return ChoiceSpace(values)


@attrs.frozen
class Tune:
    """A search for hyperparameters.

    Attributes:
        metric: the metric that the search improves on the validation part (a name in declare.metrics.METRICS).
        n_trials: the number of trials; None: one for each combination of the values, a grid, for which every
            space must be a `choice`.
        space: parameter → its space; the other parameters keep the trainer's values.
        seed: makes the search repeatable.

    Raises:
        ProjectError: the metric does not exist, n_trials is below 1, or a space is not valid or not a `choice`
            of a grid.
    """

    metric: str
    n_trials: int | None = 10
    space: Mapping[str, Space] = attrs.field(factory=dict)
    seed: int = 0

    def __attrs_post_init__(self) -> None:
        place = Place.of_caller()
        find_metric(self.metric, place)
        if self.n_trials is not None and self.n_trials < 1:
            raise ProjectError(f"n_trials={self.n_trials!r} must be 1 or more", where=str(place))
        for name, space in self.space.items():
            if not isinstance(space, Space):
                raise ProjectError(
                    f"the space of {name!r}, {space!r}, is not a valid space",
                    where=str(place),
                    remedy="Write integers(3, 6), uniform(0, 1), loguniform(0.01, 1) or choice(1, 2).",
                )
            numbers = space.values if isinstance(space, ChoiceSpace) else (space.low, space.high)
            if not numbers:
                raise ProjectError(f"the space of {name!r} has no values", where=str(place))
            for number in numbers:
                if isinstance(number, float) and not math.isfinite(number):
                    raise ProjectError(f"the space of {name!r} holds {number}", where=str(place))
            if not isinstance(space, ChoiceSpace) and space.low > space.high:
                raise ProjectError(
                    f"the space of {name!r} is empty: {space.low} is greater than {space.high}",
                    where=str(place),
                )
            if isinstance(space, FloatSpace) and space.log and space.low <= 0:
                raise ProjectError(
                    f"the space of {name!r} is logarithmic and begins at {space.low}",
                    where=str(place),
                    remedy="Begin it above 0.",
                )
            if self.n_trials is None and not isinstance(space, ChoiceSpace):
                raise ProjectError(
                    f"a grid tries every value, and the space of {name!r} is not a choice",
                    where=str(place),
                    remedy=f"Write {name}=choice(...), or declare n_trials.",
                )

    @property
    def number_of_trials(self) -> int:
        """How many trials the search runs."""
        if self.n_trials is not None:
            return self.n_trials
        return math.prod(len(space.values) for space in self.space.values() if isinstance(space, ChoiceSpace))
