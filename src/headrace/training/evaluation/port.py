"""The port that a task's evaluation implements: what its target may be, its metrics, and its plots."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.declare.metrics import METRICS, Task
from headrace.kernel.errors import ProjectError, Refused
from headrace.training.trainers.port import Label

__all__ = ["Evaluator", "Floats", "check_metric", "finite"]

Floats = npt.NDArray[np.float64]
E_co = TypeVar("E_co", covariant=True)


class Evaluator(Protocol[E_co]):
    """How models of one task are evaluated.

    Attributes:
        task: which.
        target_rule: what each value of the target must be, for a message.
    """

    task: Task
    target_rule: str

    def find_invalid(self, target: pl.Series) -> pl.Series:
        """The values that the target of this task cannot have."""

    def classes(self, target: pl.Series) -> tuple[Label, ...]:
        """The labels of a multiclass target, sorted; of other tasks none."""

    def encode(self, target: pl.Series, classes: tuple[Label, ...]) -> npt.NDArray[np.float32]:
        """The target as a trainer learns it, float32 (n,): 0 or 1, a number, or the index of the class."""

    def evaluate(self, target: npt.ArrayLike, outputs: npt.ArrayLike, classes: tuple[Label, ...] = ()) -> E_co:
        """Compares a model's outputs with the encoded target.

        Args:
            target: shape (n,), as `encode` gives it.
            outputs: as `Predictor.predict` gives them.
            classes: the labels of a multiclass target.

        Raises:
            Refused: an output is not a finite number.
        """

    def metric(self, name: str, target: npt.ArrayLike, outputs: npt.ArrayLike) -> float:
        """A single metric by its name (see `evaluate`).

        Raises:
            ProjectError: the task has no metric of this name.
            Refused: an output is not a finite number.
        """

    def plot(self, evaluation: Any) -> str:
        """The plots of an evaluation, as SVG."""


def finite(outputs: npt.ArrayLike) -> Floats:
    """The outputs as float64. A metric of NaN would be a number that rests on the order of the rows.

    Raises:
        Refused: an output is not a finite number.
    """
    values = np.asarray(outputs, np.float64)
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        raise Refused(
            f"{wrong:,} of the model's {values.size:,} answers are NaN or infinite",
            remedy="Look at the trainer's parameters: one that is NaN or very large does this.",
        )
    return values


def check_metric(name: str, task: Task) -> None:
    """Raises ProjectError where the task has no metric of this name."""
    if name not in METRICS[task]:
        raise ProjectError(
            f"no metric {name!r} exists for the task {task}", remedy=f"Its metrics: {', '.join(METRICS[task])}."
        )
