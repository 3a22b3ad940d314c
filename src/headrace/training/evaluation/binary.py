"""Evaluation of a binary model, whose scores are probabilities that the target is 1.

The metrics have the definitions and values of scikit-learn's. They are computed here because scikit-learn takes
3 s to import.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
from msgspec import Struct

from headrace.declare.metrics import Task
from headrace.training.evaluation.plots import Plot, draw
from headrace.training.evaluation.port import Floats, check_finite, check_metric
from headrace.training.trainers.port import Label

__all__ = ["Bin", "BinaryEvaluation", "BinaryEvaluator", "Curves"]

_BINS = 10
_POINTS = 200


class Bin(Struct, frozen=True):
    """A tenth of the rows, by score.

    Attributes:
        rows: how many rows it has.
        mean_score: the mean of their scores.
        share: the share of the rows whose target is 1.
    """

    rows: int
    mean_score: float
    share: float


class Curves(Struct, frozen=True):
    """Points of the ROC curve (false and true positive rate) and of precision over recall."""

    roc: list[tuple[float, float]]
    pr: list[tuple[float, float]]


class BinaryEvaluation(Struct, frozen=True, tag_field="task", tag="binary"):
    """A model's scores against the target.

    Attributes:
        rows: how many rows.
        base_rate: the share of rows whose target is 1.
        metrics: by the names in declare.metrics.METRICS.
        calibration: tenths of the rows, from the lowest scores to the highest.
        curves: for plots.
    """

    rows: int
    base_rate: float
    metrics: dict[str, float]
    calibration: list[Bin]
    curves: Curves

    @property
    def baseline(self) -> dict[str, float]:
        """The reference values for the metrics."""
        return {"base_rate": self.base_rate}


class BinaryEvaluator:
    """Implements the port `Evaluator` for targets that are 0 or 1. Each part must have both."""

    task: Task = "binary"
    target_rule = "0 or 1"

    def find_invalid(self, target: pl.Series) -> pl.Series:
        """The values that are neither 0 nor 1."""
        if target.dtype.is_numeric() or target.dtype == pl.Boolean:
            return target.filter(~target.cast(pl.Float64).is_in([0.0, 1.0]))
        return target

    def classes(self, target: pl.Series) -> tuple[Label, ...]:  # noqa: ARG002  the port's signature
        """Empty: the target needs no codes."""
        return ()

    def encode(self, target: pl.Series, classes: tuple[Label, ...]) -> npt.NDArray[np.float32]:  # noqa: ARG002
        """The target as float32."""
        return target.cast(pl.Float32).to_numpy()

    def evaluate(
        self,
        target: npt.ArrayLike,
        outputs: npt.ArrayLike,
        classes: tuple[Label, ...] = (),  # noqa: ARG002
    ) -> BinaryEvaluation:
        """Compares scores with the target (see the port)."""
        truth, scores = np.asarray(target, np.float64), check_finite(outputs)
        counts = _count(truth, scores)
        calibration = _calibration(truth, scores)
        error = sum(tenth.rows * abs(tenth.mean_score - tenth.share) for tenth in calibration) / len(truth)
        metrics = {
            "roc_auc": _roc_auc(counts),
            "pr_auc": _pr_auc(counts),
            "accuracy_at_base_rate": _accuracy_at_base_rate(truth, scores),
            "log_loss": _log_loss(truth, scores),
            "brier": float(np.mean((scores - truth) ** 2)),
            "calibration_error": error,
        }
        return BinaryEvaluation(len(truth), float(truth.mean()), metrics, calibration, _curves(counts))

    def metric(self, name: str, target: npt.ArrayLike, outputs: npt.ArrayLike) -> float:
        """A single metric (see the port). The metrics that a search uses often are computed alone."""
        check_metric(name, self.task)
        truth, scores = np.asarray(target, np.float64), check_finite(outputs)
        if name == "roc_auc":
            return _roc_auc(_count(truth, scores))
        if name == "pr_auc":
            return _pr_auc(_count(truth, scores))
        if name == "log_loss":
            return _log_loss(truth, scores)
        return self.evaluate(truth, scores).metrics[name]

    def plot(self, evaluation: BinaryEvaluation) -> str:
        """Plots of the ROC curve, precision over recall, and calibration, scaled to its largest value."""
        metrics, base = evaluation.metrics, evaluation.base_rate
        calibration = [(tenth.mean_score, tenth.share) for tenth in evaluation.calibration]
        largest = max((max(point) for point in calibration), default=1.0) or 1.0
        roc = Plot(
            f"ROC, area {metrics['roc_auc']:.3f}",
            "false positive rate",
            "true positive rate",
            evaluation.curves.roc,
            [(0, 0), (1, 1)],
        )
        precision = Plot(
            f"Precision, mean {metrics['pr_auc']:.3f}",
            "recall",
            "precision",
            evaluation.curves.pr,
            [(0, base), (1, base)],
        )
        calibrated = Plot(
            f"Calibration, error {metrics['calibration_error']:.3f}",
            f"mean score (to {largest:.2g})",
            f"share that is 1 (to {largest:.2g})",
            [(x / largest, y / largest) for x, y in calibration],
            [(0, 0), (1, 1)],
        )
        return draw([roc, precision, calibrated])


class _Counts(Struct, frozen=True):
    """True and false positives at the threshold of each distinct score, from the highest on."""

    true: Floats
    false: Floats


def _count(truth: Floats, scores: Floats) -> _Counts:
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # equal scores share a threshold
    true = np.cumsum(truth[order])[last]
    return _Counts(true, last + 1.0 - true)


def _roc_auc(counts: _Counts) -> float:
    """The area under the ROC curve by trapezoids: ties count half."""
    true = np.append(0.0, counts.true) / counts.true[-1]
    false = np.append(0.0, counts.false) / counts.false[-1]
    return float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))


def _pr_auc(counts: _Counts) -> float:
    """Average precision: the mean of the precision over each step of recall."""
    precision = counts.true / (counts.true + counts.false)
    steps = np.diff(np.append(0.0, counts.true)) / counts.true[-1]
    return float(np.sum(steps * precision))


def _log_loss(truth: Floats, scores: Floats) -> float:
    clipped = np.clip(scores, 1e-15, 1 - 1e-15)  # the logarithm of 0 is infinite
    return float(-np.mean(np.where(truth > 0, np.log(clipped), np.log1p(-clipped))))


def _accuracy_at_base_rate(truth: Floats, scores: Floats) -> float:
    """The accuracy if the highest scores are predicted as 1: as many rows as have the target 1."""
    predicted = np.zeros(len(truth))
    predicted[np.argsort(-scores, kind="stable")[: int(truth.sum())]] = 1
    return float(np.mean(predicted == truth))


def _calibration(truth: Floats, scores: Floats) -> list[Bin]:
    order = np.argsort(scores, kind="stable")
    tenths = [tenth for tenth in np.array_split(order, _BINS) if len(tenth)]
    return [Bin(len(rows), float(scores[rows].mean()), float(truth[rows].mean())) for rows in tenths]


def _curves(counts: _Counts) -> Curves:
    indexes = np.unique(np.linspace(0, len(counts.true) - 1, _POINTS).astype(int))
    true, false = counts.true[indexes], counts.false[indexes]
    recall = true / counts.true[-1]
    roc = list(zip((false / counts.false[-1]).tolist(), recall.tolist(), strict=True))
    pr = list(zip(recall.tolist(), (true / (true + false)).tolist(), strict=True))
    return Curves([(0.0, 0.0), *roc], pr)
