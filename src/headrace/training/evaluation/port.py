"""The port that evaluates models of one task: the valid targets, the metrics, and the plots."""

from __future__ import annotations

import math
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.declare.metrics import METRICS, Task
from headrace.kernel.errors import ProjectError, Refused
from headrace.training.trainers.port import Label

__all__ = ["Evaluator", "Floats", "check_finite", "check_metric", "check_metrics"]

Floats = npt.NDArray[np.float64]
E_co = TypeVar("E_co", covariant=True)


class Evaluator(Protocol[E_co]):
    """How models of one task are evaluated.

    Attributes:
        task: the task.
        target_rule: what each value of the target must be, as a phrase for error messages.
    """

    task: Task
    target_rule: str

    def find_invalid(self, target: pl.Series) -> pl.Series:
        """The values that are not valid for a target of this task."""

    def classes(self, target: pl.Series) -> tuple[Label, ...]:
        """The labels of a multiclass target, sorted; empty for other tasks."""

    def encode(self, target: pl.Series, classes: tuple[Label, ...]) -> npt.NDArray[Any]:
        """Encodes the target for a trainer, shape (n,): 0 or 1 or the index of the class as float32; a number
        as float64."""

    def evaluate(self, target: npt.ArrayLike, outputs: npt.ArrayLike, classes: tuple[Label, ...] = ()) -> E_co:
        """Compares a model's outputs with the encoded target.

        Args:
            target: shape (n,), as `encode` returns it.
            outputs: as `Predictor.predict` returns them.
            classes: the labels of a multiclass target.

        Raises:
            Refused: an output, or a metric of the outputs, is not a finite number.
        """

    def metric(self, name: str, target: npt.ArrayLike, outputs: npt.ArrayLike) -> float:
        """A single metric by its name (see `evaluate`).

        Raises:
            ProjectError: the task has no metric of this name.
            Refused: an output, or the metric, is not a finite number.
        """

    def plot(self, evaluation: Any) -> str:
        """The plots of an evaluation, as SVG."""


def check_finite(outputs: npt.ArrayLike) -> Floats:
    """Checks that every output is a finite number, and returns them as float64.

    With a NaN among them, a metric would depend on the order of the rows.

    Raises:
        Refused: an output is not a finite number.
    """
    values = np.asarray(outputs, np.float64)
    not_finite = int((~np.isfinite(values)).sum())
    if not_finite:
        raise Refused(
            f"{not_finite:,} of the model's {values.size:,} outputs are NaN or infinite",
            remedy="Check the trainer's parameters: a NaN or a very large number causes this.",
        )
    return values


def check_metrics(metrics: dict[str, float]) -> dict[str, float]:
    """Checks that every metric is a finite number, and returns them: others have no order, and no form in JSON.

    Raises:
        Refused: a metric is not a finite number.
    """
    wrong = [name for name, value in metrics.items() if not math.isfinite(value)]
    if wrong:
        raise Refused(
            f"{', '.join(wrong)} would be NaN or infinite",
            remedy="The target or the model's outputs are too large: check it and the trainer's parameters.",
        )
    return metrics


def check_metric(name: str, task: Task) -> None:
    """Raises ProjectError where the task has no metric of this name."""
    if name not in METRICS[task]:
        raise ProjectError(
            f"the task {task} has no metric {name!r}", remedy=f"Its metrics: {', '.join(METRICS[task])}."
        )
