"""Evaluation of a regression model, whose outputs are values of the target.

The metrics have the definitions and values of scikit-learn's. It lacks `wape`: the sum of the absolute errors
divided by the sum of the absolute targets.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
from msgspec import Struct

from headrace.declare.metrics import Task
from headrace.training.evaluation.plots import Plot, draw
from headrace.training.evaluation.port import Floats, check_finite, check_metric, check_metrics
from headrace.training.trainers.port import Label

__all__ = ["RegressionEvaluation", "RegressionEvaluator"]

_POINTS = 200


class RegressionEvaluation(Struct, frozen=True, tag_field="task", tag="regression"):
    """A model's values against the target.

    Attributes:
        rows: how many rows.
        mean: the mean of the target.
        deviation: the standard deviation of the target: the RMSE of a model that always predicts the mean.
        metrics: by the names in declare.metrics.METRICS.
        quantiles: points (quantile of the target, the same quantile of the outputs), evenly spaced.
    """

    rows: int
    mean: float
    deviation: float
    metrics: dict[str, float]
    quantiles: list[tuple[float, float]]

    @property
    def baseline(self) -> dict[str, float]:
        """The reference values for the metrics."""
        return {"target_mean": self.mean, "target_deviation": self.deviation}


class RegressionEvaluator:
    """Implements the port `Evaluator` for targets that are numbers."""

    task: Task = "regression"
    target_rule = "a finite number"

    def find_invalid(self, target: pl.Series) -> pl.Series:
        """The values that are not finite numbers."""
        if not target.dtype.is_numeric():
            return target
        return target.filter(~target.cast(pl.Float64).is_finite())

    def classes(self, target: pl.Series) -> tuple[Label, ...]:  # noqa: ARG002  the port's signature
        """Empty: the target is a number."""
        return ()

    def encode(self, target: pl.Series, classes: tuple[Label, ...]) -> npt.NDArray[np.float64]:  # noqa: ARG002
        """The target as float64: the metrics would miss the cents of a large number in float32."""
        return target.cast(pl.Float64).to_numpy()

    @np.errstate(over="ignore", invalid="ignore")  # a metric that is too large is refused by name
    def evaluate(
        self,
        target: npt.ArrayLike,
        outputs: npt.ArrayLike,
        classes: tuple[Label, ...] = (),  # noqa: ARG002
    ) -> RegressionEvaluation:
        """Compares values with the target (see the port)."""
        truth, values = np.asarray(target, np.float64), check_finite(outputs)
        metrics, mean, deviation = _metrics(truth, values), float(truth.mean()), float(truth.std())
        check_metrics({**metrics, "target_mean": mean, "target_deviation": deviation})
        shares = np.linspace(0, 1, min(_POINTS, len(truth)))
        quantiles = zip(np.quantile(truth, shares).tolist(), np.quantile(values, shares).tolist(), strict=True)
        return RegressionEvaluation(len(truth), mean, deviation, metrics, list(quantiles))

    @np.errstate(over="ignore", invalid="ignore")
    def metric(self, name: str, target: npt.ArrayLike, outputs: npt.ArrayLike) -> float:
        """A single metric (see the port)."""
        check_metric(name, self.task)
        value = _metrics(np.asarray(target, np.float64), check_finite(outputs))[name]
        return check_metrics({name: value})[name]

    def plot(self, evaluation: RegressionEvaluation) -> str:
        """A plot of the quantiles of the outputs over those of the target."""
        numbers = [number for point in evaluation.quantiles for number in point]
        low, span = min(numbers), (max(numbers) - min(numbers)) or 1.0
        points = [((x - low) / span, (y - low) / span) for x, y in evaluation.quantiles]
        title = f"Quantiles, RMSE {evaluation.metrics['rmse']:.4g}"
        scale = f"({low:.3g} to {low + span:.3g})"
        return draw([Plot(title, f"target {scale}", f"prediction {scale}", points, [(0, 0), (1, 1)])])


def _metrics(truth: Floats, values: Floats) -> dict[str, float]:
    errors = values - truth
    squares, total = float(np.sum(errors**2)), float(np.sum((truth - truth.mean()) ** 2))
    # As in scikit-learn: the smallest step of a float replaces a target of 0, by which nothing can be divided.
    relative = np.abs(errors) / np.maximum(np.abs(truth), np.finfo(np.float64).eps)
    constant = 1.0 if squares == 0 else 0.0
    return {
        "rmse": float(np.sqrt(np.mean(errors**2))),
        "mae": float(np.mean(np.abs(errors))),
        "mape": float(np.mean(relative)),
        "wape": float(np.sum(np.abs(errors)) / max(np.sum(np.abs(truth)), np.finfo(np.float64).eps)),
        "r2": 1 - squares / total if total else constant,
    }
