"""Converts the parts of a training set to the numbers that a trainer learns from: encodings and matrices."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
from msgspec import Struct

from headrace.declare.metrics import Task
from headrace.features.plan import FeaturePlan
from headrace.features.values.matrix import Encoding, Matrix
from headrace.training.evaluation import evaluator_for
from headrace.training.splits.port import Parts
from headrace.training.trainers.port import Examples, Label, TrainingData

__all__ = ["Matrices", "matrix_of", "to_matrices"]


class Matrices(Struct, frozen=True):
    """The parts of a training set as numbers.

    Attributes:
        encoding: how rows become numbers, learnt from the train part of the last fold.
        folds: train and validation parts; the final fit uses the last fold.
        tests: for each fold, the rows that only the evaluation uses.
    """

    encoding: Encoding
    folds: tuple[TrainingData, ...]
    tests: tuple[Examples, ...]

    @property
    def final(self) -> TrainingData:
        """The fold of the final fit."""
        return self.folds[-1]

    @property
    def test(self) -> Examples:
        """The test part of the last fold."""
        return self.tests[-1]

    @property
    def task(self) -> Task:
        """The task of the target."""
        return self.final.task

    @property
    def classes(self) -> tuple[Label, ...]:
        """The labels of a multiclass target; else empty."""
        return self.final.classes


def to_matrices(parts: Parts, target: str, plan: FeaturePlan, task: Task = "binary") -> Matrices:
    """Converts the parts to numbers. The encoding is learnt from the train part alone."""
    evaluator = evaluator_for(task)
    encoding = Encoding.learn(parts.train, plan)
    matrix = Matrix(plan, encoding)
    classes = evaluator.classes(pl.concat([part[target] for _, part in parts]))

    def examples(rows: pl.DataFrame) -> Examples:
        return Examples(matrix_of(rows, matrix), evaluator.encode(rows[target], classes))

    folds = tuple(
        TrainingData(task, encoding, classes, examples(fold.train), examples(fold.validation))
        for fold in parts.folds
    )
    return Matrices(encoding, folds, tuple(examples(fold.test) for fold in parts.folds))


def matrix_of(rows: pl.DataFrame, matrix: Matrix) -> npt.NDArray[np.float32]:
    """The model's input for the rows: float32 (rows, features). Converts a slice at a time to save memory."""
    values = np.empty((len(rows), len(matrix.columns)), dtype=np.float32)
    first = 0
    for part in matrix.slices(rows):
        values[first : first + len(part.matrix)] = part.matrix
        first += len(part.matrix)
    return values
