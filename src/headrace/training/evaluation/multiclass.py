"""Evaluation of a multiclass model, whose outputs are the probabilities of the classes.

The metrics have the definitions and values of scikit-learn's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
from msgspec import Struct

from headrace.declare.metrics import Task
from headrace.kernel.errors import ProjectError
from headrace.training.evaluation.plots import draw_confusion
from headrace.training.evaluation.port import Floats, check_finite, check_metric
from headrace.training.trainers.port import Label

__all__ = ["ClassMetrics", "MulticlassEvaluation", "MulticlassEvaluator"]


class ClassMetrics(Struct, frozen=True):
    """How well one class is recognised.

    Attributes:
        label: the label of the class.
        rows: how many rows belong to the class.
        precision: of the rows predicted as this class, the share that belongs to it.
        recall: of the rows of this class, the share predicted as it.
        f1: the harmonic mean of both; 0 if no row of the class was predicted correctly.
    """

    label: Label
    rows: int
    precision: float
    recall: float
    f1: float


class MulticlassEvaluation(Struct, frozen=True, tag_field="task", tag="multiclass"):
    """A model's probabilities against the target.

    Attributes:
        rows: how many rows.
        largest_share: the share of the most frequent class: the accuracy of a model that always predicts it.
        metrics: by the names in declare.metrics.METRICS.
        classes: the metrics of each class.
        confusion: for each true class (a row), how many of its rows were predicted as each class (a column), in
            the order of `classes`.
    """

    rows: int
    largest_share: float
    metrics: dict[str, float]
    classes: list[ClassMetrics]
    confusion: list[list[int]]

    @property
    def baseline(self) -> dict[str, float]:
        """The reference values for the metrics."""
        return {"largest_share": self.largest_share}

    @property
    def pairs(self) -> list[tuple[Label, Label]]:
        """The true and the predicted class of each row, ordered by both: what DVC's plot `confusion` takes."""
        labels = [metrics.label for metrics in self.classes]
        return [
            (truth, predicted)
            for truth, counts in zip(labels, self.confusion, strict=True)
            for predicted, count in zip(labels, counts, strict=True)
            for _ in range(count)
        ]


class MulticlassEvaluator:
    """Implements the port `Evaluator` for targets that are one of several classes: text or whole numbers."""

    task: Task = "multiclass"
    target_rule = "text or a whole number"

    def find_invalid(self, target: pl.Series) -> pl.Series:
        """The values that are neither text nor whole numbers."""
        if target.dtype.is_integer() or target.dtype in (pl.String, pl.Categorical, pl.Enum):
            return target.clear()
        return target

    def classes(self, target: pl.Series) -> tuple[Label, ...]:
        """The distinct labels, sorted."""
        plain = target if target.dtype.is_integer() else target.cast(pl.String)
        return tuple(plain.drop_nulls().unique().sort())

    def encode(self, target: pl.Series, classes: tuple[Label, ...]) -> npt.NDArray[np.float32]:
        """The index of each label among the classes."""
        plain = target if target.dtype.is_integer() else target.cast(pl.String)
        codes = {label: code for code, label in enumerate(classes)}
        return plain.replace_strict(codes, return_dtype=pl.Float32).to_numpy()

    def evaluate(
        self, target: npt.ArrayLike, outputs: npt.ArrayLike, classes: tuple[Label, ...] = ()
    ) -> MulticlassEvaluation:
        """Compares probabilities with the target (see the port)."""
        truth, probabilities = _arrays(target, outputs)
        labels = classes or tuple(range(probabilities.shape[1]))
        confusion = _confusion(truth, probabilities)
        largest = float(confusion.sum(axis=1).max() / len(truth))
        return MulticlassEvaluation(
            len(truth),
            largest,
            _metrics(truth, probabilities, confusion),
            [
                ClassMetrics(
                    label, int(confusion[code].sum()), *(float(scores[code]) for scores in _scores(confusion))
                )
                for code, label in enumerate(labels)
            ],
            confusion.tolist(),
        )

    def metric(self, name: str, target: npt.ArrayLike, outputs: npt.ArrayLike) -> float:
        """A single metric (see the port)."""
        check_metric(name, self.task)
        truth, probabilities = _arrays(target, outputs)
        return _metrics(truth, probabilities, _confusion(truth, probabilities))[name]

    def plot(self, evaluation: MulticlassEvaluation) -> str:
        """The confusion matrix."""
        return draw_confusion([str(metrics.label) for metrics in evaluation.classes], evaluation.confusion)


def _arrays(target: npt.ArrayLike, outputs: npt.ArrayLike) -> tuple[npt.NDArray[np.intp], Floats]:
    probabilities = check_finite(outputs)
    if probabilities.ndim != 2:
        raise ProjectError(
            "the model returns one number for each row; a multiclass model must return one for each class",
            remedy="Check the trainer's parameters: it must return a probability for each class.",
        )
    return np.asarray(target).astype(np.intp), probabilities


def _confusion(truth: npt.NDArray[np.intp], probabilities: Floats) -> npt.NDArray[np.intp]:
    count = probabilities.shape[1]
    pairs = truth * count + probabilities.argmax(axis=1)
    return np.bincount(pairs, minlength=count * count).reshape(count, count)


def _scores(confusion: npt.NDArray[np.intp]) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 of each class; 0 where the denominator is 0."""
    correct, rows, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision = correct / np.maximum(predicted, 1)
    recall = correct / np.maximum(rows, 1)
    return precision, recall, 2 * correct / np.maximum(rows + predicted, 1)


def _metrics(
    truth: npt.NDArray[np.intp], probabilities: Floats, confusion: npt.NDArray[np.intp]
) -> dict[str, float]:
    present = confusion.sum(axis=0) + confusion.sum(axis=1) > 0  # a class that never occurs has no F1
    clipped = np.clip(probabilities[np.arange(len(truth)), truth], 1e-15, 1.0)
    return {
        "accuracy": float(np.diag(confusion).sum() / len(truth)),
        "macro_f1": float(_scores(confusion)[2][present].mean()),
        "log_loss": float(-np.mean(np.log(clipped))),
    }
