"""Evaluation of a multiclass model: its outputs are the probabilities of the classes.

The metrics are those of scikit-learn by definition and value.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
from msgspec import Struct

from headrace.declare.metrics import Task
from headrace.kernel.errors import ProjectError
from headrace.training.evaluation.plots import draw_confusion
from headrace.training.evaluation.port import Floats, check_metric, finite
from headrace.training.trainers.port import Label

__all__ = ["ClassMetrics", "MulticlassEvaluation", "MulticlassEvaluator"]


class ClassMetrics(Struct, frozen=True):
    """How well one class is recognised.

    Attributes:
        label: the class.
        rows: how many rows are of it.
        precision: of the rows predicted to be of it, the share that is.
        recall: of the rows that are of it, the share predicted to be.
        f1: the harmonic mean of both; 0 where the class was never right.
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
        largest_share: the share of the most frequent class: the accuracy of a model that always answers it.
        metrics: by the names in declare.metrics.METRICS.
        classes: each class.
        confusion: for each true class, how many of its rows were predicted to be of each class.
    """

    rows: int
    largest_share: float
    metrics: dict[str, float]
    classes: list[ClassMetrics]
    confusion: list[list[int]]

    @property
    def baseline(self) -> dict[str, float]:
        """What the metrics are to be compared with."""
        return {"largest_share": self.largest_share}


class MulticlassEvaluator:
    """The port `Evaluator` for targets that are one of several classes: texts or whole numbers."""

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
                    label, int(confusion[code].sum()), *(float(part[code]) for part in _scores(confusion))
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
        return draw_confusion([str(part.label) for part in evaluation.classes], evaluation.confusion)


def _arrays(target: npt.ArrayLike, outputs: npt.ArrayLike) -> tuple[npt.NDArray[np.intp], Floats]:
    probabilities = finite(outputs)
    if probabilities.ndim != 2:
        raise ProjectError(
            "the model gives one number for each row, and a multiclass model gives one for each class",
            remedy="Look at the trainer's parameters: a probability for each class is needed.",
        )
    return np.asarray(target).astype(np.intp), probabilities


def _confusion(truth: npt.NDArray[np.intp], probabilities: Floats) -> npt.NDArray[np.intp]:
    count = probabilities.shape[1]
    pairs = truth * count + probabilities.argmax(axis=1)
    return np.bincount(pairs, minlength=count * count).reshape(count, count)


def _scores(confusion: npt.NDArray[np.intp]) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 of each class; 0 where nothing can be divided."""
    right, rows, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision = right / np.maximum(predicted, 1)
    recall = right / np.maximum(rows, 1)
    return precision, recall, 2 * right / np.maximum(rows + predicted, 1)


def _metrics(
    truth: npt.NDArray[np.intp], probabilities: Floats, confusion: npt.NDArray[np.intp]
) -> dict[str, float]:
    present = confusion.sum(axis=0) + confusion.sum(axis=1) > 0  # a class that never occurs has no F1
    sure = np.clip(probabilities[np.arange(len(truth)), truth], 1e-15, 1.0)
    return {
        "accuracy": float(np.diag(confusion).sum() / len(truth)),
        "macro_f1": float(_scores(confusion)[2][present].mean()),
        "log_loss": float(-np.mean(np.log(sure))),
    }
