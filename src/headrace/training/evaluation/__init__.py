"""Evaluation by task. A new task is a module, its metrics in `declare.metrics`, and its lines here."""

from __future__ import annotations

import polars as pl

from headrace.declare.metrics import Task
from headrace.kernel.errors import ProjectError
from headrace.training.evaluation.binary import BinaryEvaluation, BinaryEvaluator
from headrace.training.evaluation.multiclass import MulticlassEvaluation, MulticlassEvaluator
from headrace.training.evaluation.port import Evaluator
from headrace.training.evaluation.regression import RegressionEvaluation, RegressionEvaluator

__all__ = ["EVALUATORS", "Evaluation", "evaluator_for", "infer_task"]

Evaluation = BinaryEvaluation | MulticlassEvaluation | RegressionEvaluation
EVALUATORS: tuple[Evaluator[Evaluation], ...] = (
    BinaryEvaluator(),
    MulticlassEvaluator(),
    RegressionEvaluator(),
)


def evaluator_for(task: Task) -> Evaluator[Evaluation]:
    """The evaluator of a task."""
    return next(evaluator for evaluator in EVALUATORS if evaluator.task == task)


def infer_task(target: pl.Series, where: str) -> Task:
    """Infers the task from the target's values: 0 and 1 are binary, text is multiclass, floats and decimals are
    regression.

    Raises:
        ProjectError: the values are whole numbers other than 0 and 1, or of another type.
    """
    if evaluator_for("binary").find_invalid(target).is_empty():
        return "binary"
    if target.dtype in (pl.String, pl.Categorical, pl.Enum):
        return "multiclass"
    if target.dtype.is_float() or target.dtype.is_decimal():
        return "regression"
    raise ProjectError(
        f"the task cannot be inferred from the target {target.name!r} of type {target.dtype}",
        where=where,
        remedy='Declare it: Model(..., task="regression") or task="multiclass".',
    )
