"""Evaluation: what a model's answers are worth on rows it has not seen.

The metrics are those of scikit-learn by definition and value; it takes 3 s to import and these few
lines none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from headrace.declare.metrics import find_metric
from headrace.kernel.errors import Refused

__all__ = ["Bin", "Curves", "Evaluation", "evaluate", "metric"]

Floats = npt.NDArray[np.float64]

_BINS = 10
_POINTS = 200


class Bin(Struct, frozen=True):
    """A tenth of the rows, by score: the mean score said, and the share that was true."""

    rows: int
    mean_score: float
    share: float


class Curves(Struct, frozen=True):
    """Points of the ROC curve (false and true positive rate) and of precision over recall."""

    roc: list[tuple[float, float]]
    pr: list[tuple[float, float]]


class Evaluation(Struct, frozen=True):
    """A model's answers against what was true.

    Attributes:
        rows: how many rows.
        base_rate: the share of rows whose target is 1.
        metrics: by the names of declare.metrics.METRICS.
        calibration: tenths of the rows, from the lowest scores to the highest.
        curves: for plots.
    """

    rows: int
    base_rate: float
    metrics: dict[str, float]
    calibration: list[Bin]
    curves: Curves


def evaluate(target: npt.ArrayLike, scores: npt.ArrayLike) -> Evaluation:
    """Compares scores with the truth.

    Args:
        target: shape (n,), 0 or 1, both present.
        scores: shape (n,), probabilities that the target is 1.

    Raises:
        Refused: a score is not a finite number.
    """
    truth, said = np.asarray(target, np.float64), _finite(scores)
    counted = _counted(truth, said)
    calibration = _calibration(truth, said)
    metrics = {
        "roc_auc": _roc_auc(counted),
        "pr_auc": _pr_auc(counted),
        "accuracy_at_base_rate": _accuracy_at_base_rate(truth, said),
        "log_loss": _log_loss(truth, said),
        "brier": float(np.mean((said - truth) ** 2)),
        "calibration_error": sum(b.rows * abs(b.mean_score - b.share) for b in calibration) / len(truth),
    }
    return Evaluation(len(truth), float(truth.mean()), metrics, calibration, _curves(counted))


def metric(name: str, target: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """One metric by its name (see `evaluate`).

    Raises:
        ProjectError: there is no metric of this name.
        Refused: a score is not a finite number.
    """
    truth, said = np.asarray(target, np.float64), _finite(scores)
    if name == "roc_auc":
        return _roc_auc(_counted(truth, said))
    if name == "pr_auc":
        return _pr_auc(_counted(truth, said))
    if name == "log_loss":
        return _log_loss(truth, said)
    find_metric(name)
    return evaluate(truth, said).metrics[name]


def _finite(scores: npt.ArrayLike) -> Floats:
    """The scores. A metric of NaN would be a number that rests on the order of the rows."""
    values = np.asarray(scores, np.float64)
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        raise Refused(
            f"{wrong:,} of the model's {len(values):,} answers are NaN or infinite",
            remedy="Look at the trainer's parameters: one that is NaN or very large does this.",
        )
    return values


@dataclass(frozen=True)
class _Counted:
    """True and false positives when every score from the highest to each distinct one is taken."""

    true: Floats
    false: Floats


def _counted(truth: Floats, said: Floats) -> _Counted:
    order = np.argsort(-said, kind="stable")
    last = np.append(np.flatnonzero(np.diff(said[order])), len(said) - 1)  # equal scores are one step
    true = np.cumsum(truth[order])[last]
    return _Counted(true, last + 1.0 - true)


def _roc_auc(counted: _Counted) -> float:
    """The area under the ROC curve by trapezoids: ties count half."""
    true = np.append(0.0, counted.true) / counted.true[-1]
    false = np.append(0.0, counted.false) / counted.false[-1]
    return float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))


def _pr_auc(counted: _Counted) -> float:
    """Average precision: the mean of the precision over each step of recall."""
    precision = counted.true / (counted.true + counted.false)
    steps = np.diff(np.append(0.0, counted.true)) / counted.true[-1]
    return float(np.sum(steps * precision))


def _log_loss(truth: Floats, said: Floats) -> float:
    sure = np.clip(said, 1e-15, 1 - 1e-15)
    return float(-np.mean(np.where(truth > 0, np.log(sure), np.log1p(-sure))))


def _accuracy_at_base_rate(truth: Floats, said: Floats) -> float:
    """The share that is right when as many rows are called 1 as are 1."""
    called = np.zeros(len(truth))
    called[np.argsort(-said, kind="stable")[: int(truth.sum())]] = 1
    return float(np.mean(called == truth))


def _calibration(truth: Floats, said: Floats) -> list[Bin]:
    order = np.argsort(said, kind="stable")
    tenths = [tenth for tenth in np.array_split(order, _BINS) if len(tenth)]
    return [Bin(len(t), float(said[t].mean()), float(truth[t].mean())) for t in tenths]


def _curves(counted: _Counted) -> Curves:
    places = np.unique(np.linspace(0, len(counted.true) - 1, _POINTS).astype(int))
    true, false = counted.true[places], counted.false[places]
    recall = true / counted.true[-1]
    roc = list(zip((false / counted.false[-1]).tolist(), recall.tolist(), strict=True))
    pr = list(zip(recall.tolist(), (true / (true + false)).tolist(), strict=True))
    return Curves([(0.0, 0.0), *roc], pr)
