"""Search spaces of a model's hyperparameters, and how they are searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Choice", "Floats", "Integers", "Space", "Tune", "choice", "integers", "loguniform", "uniform"]


@dataclass(frozen=True)
class Integers:
    """Whole numbers from `low` to `high`, both included."""

    low: int
    high: int


@dataclass(frozen=True)
class Floats:
    """Numbers from `low` to `high`, evenly on a linear or a logarithmic scale."""

    low: float
    high: float
    log: bool


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]


Space = Integers | Floats | Choice


def integers(low: int, high: int) -> Integers:
    """Whole numbers from `low` to `high`, both included."""
    return Integers(low, high)


def uniform(low: float, high: float) -> Floats:
    """Numbers from `low` to `high`."""
    return Floats(low, high, log=False)


def loguniform(low: float, high: float) -> Floats:
    """Numbers from `low` to `high`, evenly on a logarithmic scale."""
    return Floats(low, high, log=True)


def choice(*values: Any) -> Choice:
    """One of the values."""
    return Choice(values)


@dataclass(frozen=True)
class Tune:
    """How hyperparameters are searched.

    Attributes:
        metric: what the search maximises on the validation part (a name of training.evaluation).
        trials: how many settings are tried.
        space: parameter → its space; the others stay as the trainer says.
        seed: makes the search repeatable.
    """

    metric: str
    trials: int = 10
    space: Mapping[str, Space] = field(default_factory=dict)
    seed: int = 0
