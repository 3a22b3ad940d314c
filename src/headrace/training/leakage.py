"""Leakage: finds features that predict the target too well alone.

A single feature that is nearly perfect was usually made after the label, or from it, and serving will not have
it. So each feature predicts the target without the others: half of the rows give the target's mean (or its most
frequent class) at each level of the feature, and the other half is scored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from msgspec import Struct
from numpy.typing import NDArray

from headrace.declare.metrics import Task
from headrace.kernel.counts import plural
from headrace.kernel.errors import Refused
from headrace.training.evaluation import evaluator_for

__all__ = ["MEASURES", "FeatureScore", "score_features"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MEASURES: dict[Task, str] = {
    "binary": "area under the ROC curve",
    "multiclass": "share of the errors of the most frequent class that it avoids",
    "regression": "share of the variance that it explains (R²)",
}
"""What the score of a single feature is, by task."""

_LEVELS, _MOST_LEVELS = 64, 1024  # of a numeric feature
_LEVEL_ROWS = 32  # of many rows, how many a level has at least
# How much a score by ranks may lack, as a share of what the bound allows. It is small, because an honest lag of
# targets of very different sizes explains nearly all of their order.
_RANK_GAP = 1 / 50
_LEAST_ROWS = 100  # with fewer, a feature of noise scores high by chance


class FeatureScore(Struct, frozen=True):
    """How well one feature predicts the target without the others.

    Attributes:
        feature: its column, `view__feature`.
        score: see `MEASURES`; 1 is perfect. Chance is .5 for a binary target and 0 for the others. A feature of
            noise may score below it, because it is scored on rows that it was not fitted on.
        share: the share of the rows that have a value of it.
        leaks: whether the score is at least the bound.
    """

    feature: str
    score: float
    share: float
    leaks: bool


def score_features(
    rows: pl.DataFrame, features: Sequence[str], target: str, task: Task, *, bound: float
) -> list[FeatureScore]:
    """Scores each feature alone; the highest score first.

    Args:
        rows: the features and the target, in the order of time: every other row is scored by the rest.
        features: the columns to score: numbers, booleans and text.
        target: the column of the target, without nulls.
        task: the task of the model.
        bound: the score from which a feature leaks.

    Raises:
        Refused: there are fewer than 100 rows, or one half has only one value of the target.
    """
    evaluator = evaluator_for(task)
    truth = np.asarray(evaluator.encode(rows[target], evaluator.classes(rows[target])), np.float64)
    if len(truth) < _LEAST_ROWS or any(len(np.unique(truth[half::2])) < 2 for half in (0, 1)):
        raise Refused(
            f"{plural(len(truth), 'labelled row', 'is', 'are')} too few to score single features",
            remedy=f"At least {_LEAST_ROWS} are needed, with several values of the target in each half.",
        )
    scores = []
    ranks = pl.Series(truth).rank().to_numpy()
    for name in features:
        levels, present = _levels_of(rows[name])
        score = _score(levels, truth, task)
        if task == "regression" and rows[name].dtype != pl.String:
            score = max(score, _explain_by_line(_numbers_of(rows[name]), present, levels, truth))
        if task == "regression" and (by_ranks := _score(levels, ranks, task)) >= 1 - (1 - bound) * _RANK_GAP:
            score = max(score, by_ranks)  # a function of the target, of which a few large values hide the error
        scores.append(FeatureScore(name, score, float(present.mean()), score >= bound))
    return sorted(scores, key=lambda score: (-score.score, score.feature))


def _levels_of(column: pl.Series) -> tuple[Ints, NDArray[np.bool_]]:
    """The level of each value, int64 [n], and whether there is a value; missing ones are level 0."""
    if column.dtype == pl.String:
        levels = column.rank("dense").cast(pl.Int64).fill_null(0).to_numpy()
        return levels, column.is_not_null().to_numpy()
    values = _numbers_of(column)
    present = np.isfinite(values)
    levels = np.zeros(len(values), dtype=np.int64)
    edges = _edges_of(values[::2][present[::2]])
    levels[present] = np.searchsorted(edges, values[present], "right") + 1
    return levels, present


def _numbers_of(column: pl.Series) -> Floats:
    """The values as floats, NaN for null."""
    return column.cast(pl.Float64).fill_null(np.nan).to_numpy()


def _edges_of(values: Floats) -> Floats:
    """Where each level begins. Of many different values, levels have about the same number of rows. But a
    value that many rows have is a level of its own: the few values beyond it may be those of a rare target."""
    size = min(max(len(values) // _LEVEL_ROWS, _LEVELS), _MOST_LEVELS)
    edges, counts = np.unique(values, return_counts=True)
    if len(edges) > size:
        ranks = np.arange(size) * len(values) // size
        chosen = np.unique(np.searchsorted(np.cumsum(counts), ranks, "right"))
        edges, counts = edges[chosen], counts[chosen]
    return np.union1d(edges, np.nextafter(edges[counts > 1], np.inf))


def _score(levels: Ints, truth: Floats, task: Task) -> float:
    known, unknown = levels[::2], levels[1::2]
    expected, actual = truth[::2], truth[1::2]
    size = int(levels.max()) + 1
    if task == "multiclass":
        return _avoided_errors(known, expected.astype(np.int64), unknown, actual.astype(np.int64), size)
    means = _means_of(known, expected, size)[unknown]
    return evaluator_for(task).metric("roc_auc", actual, means) if task == "binary" else _explain(actual, means)


def _means_of(levels: Ints, truth: Floats, size: int) -> Floats:
    """The mean of each level; a level without rows has the mean of all."""
    counts = np.bincount(levels, minlength=size)
    sums = np.bincount(levels, weights=truth, minlength=size)
    return np.where(counts > 0, sums / np.maximum(counts, 1), truth.mean())


def _explain(actual: Floats, predicted: Floats) -> float:
    """R²: the share of the variance that is explained."""
    return float(1 - np.sum((actual - predicted) ** 2) / np.sum((actual - actual.mean()) ** 2))


def _explain_by_line(values: Floats, present: NDArray[np.bool_], levels: Ints, truth: Floats) -> float:
    """R² of a line through the known half: levels are too wide where a few large values have most of the
    variance. A row without a value has the mean of such rows."""
    is_known, is_asked = present[::2], present[1::2]
    known, expected, actual = values[::2][is_known], truth[::2], truth[1::2]
    predicted = _means_of(levels[::2], expected, int(levels.max()) + 1)[levels[1::2]]
    if len(known):
        scale = np.abs(values[present]).max() or 1.0
        offset, mean = np.mean(known / scale), expected[is_known].mean()
        distances = known / scale - offset
        slope = np.sum(distances * (expected[is_known] - mean)) / (np.sum(distances**2) or 1.0)
        predicted[is_asked] = mean + slope * (values[1::2][is_asked] / scale - offset)
    return _explain(actual, predicted)


def _avoided_errors(known: Ints, expected: Ints, unknown: Ints, actual: Ints, size: int) -> float:
    classes = int(max(expected.max(), actual.max())) + 1
    counts = np.bincount(known * classes + expected, minlength=size * classes).reshape(size, classes)
    most_frequent = int(np.bincount(expected, minlength=classes).argmax())
    predicted = np.where(counts.sum(axis=1) > 0, counts.argmax(axis=1), most_frequent)
    errors = np.sum(predicted[unknown] != actual)
    return float(1 - errors / np.sum(actual != most_frequent))
