"""Evaluates what a model is compared with: the declared baseline, and the folds of a walk-forward split."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from headrace.declare.model import Model
from headrace.kernel.scratch import make_scratch
from headrace.training.baselines import predict_baseline
from headrace.training.evaluation import evaluator_for
from headrace.training.fit import save
from headrace.training.matrices import Matrices
from headrace.training.report import FoldResult
from headrace.training.splits.port import MOMENT, Parts
from headrace.training.trainers.port import Fitted

__all__ = ["evaluate_baseline", "evaluate_folds"]


def evaluate_baseline(
    model: Model, rows: pl.DataFrame, part: pl.DataFrame, keys: Sequence[str]
) -> dict[str, float]:
    """The metrics of the model's baseline on a part, from the rows before it; empty without a baseline."""
    if model.baseline is None:
        return {}
    known = rows.filter(pl.col(MOMENT) < part[MOMENT].min())
    outputs = predict_baseline(model.baseline, known, part, model.target, keys)
    return evaluator_for("regression").evaluate(part[model.target].to_numpy(), outputs).metrics


def evaluate_folds(
    model: Model,
    rows: pl.DataFrame,
    parts: Parts,
    matrices: Matrices,
    fits: Sequence[Fitted],
    keys: Sequence[str],
) -> list[FoldResult]:
    """The results of each fold's model and of the baseline on the fold's test window.

    Args:
        model: the declaration.
        rows: all labelled rows.
        parts: how they were divided.
        matrices: the parts as numbers.
        fits: the model of each fold.
        keys: the columns that name a row's entities.

    Returns:
        A result for each fold; none if there is only one.
    """
    if len(parts.folds) == 1:
        return []
    results = []
    evaluator = evaluator_for(matrices.task)
    for fold, test, fitted in zip(parts.folds, matrices.tests, fits, strict=True):
        with make_scratch() as folder:
            predictor = save(folder, fitted, model, matrices)
        outputs = predictor.predict(test.matrix)
        results.append(
            FoldResult(
                fold.test[MOMENT].min().isoformat(),  # type: ignore[union-attr]
                {name: len(part) for name, part in fold.named},
                evaluator.evaluate(test.target, outputs, matrices.classes).metrics,
                evaluate_baseline(model, rows, fold.test, keys),
            )
        )
    return results
