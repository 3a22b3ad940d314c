"""outcomes: a model's predictions with what really happened, and how good each version is in truth."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from headrace.flows.models.predictions import TABLE
from headrace.kernel.errors import CallError
from headrace.serving.outcomes import join_outcomes
from headrace.tables.read import read_input
from headrace.training.evaluation import evaluator_for
from headrace.training.evaluation.multiclass import MulticlassEvaluation
from headrace.training.report import TrainingReport, read_report
from headrace.training.trainers.port import Label
from headrace.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

__all__ = ["ArmOutcomes", "OutcomesReport", "evaluate_outcomes", "outcomes"]

_COLUMNS = ("id", "version", "arm", "shadow", "shadow_of", "at", "entity", "value", "release")


class ArmOutcomes(Struct, frozen=True):
    """The predictions of one arm of a release, and their outcomes.

    Attributes:
        release: the id of the release. Only arms of one release can be compared: they had the same customers'
            traffic in the same time.
        since: the time of the first prediction.
        arm, version: the arm, and its version.
        shadow: whether clients did not get these predictions.
        predictions: how many there are.
        known: how many of them have an outcome.
        metrics: the metrics of the model's task over those; and for a binary model `accuracy`, the share of
            outcomes on whose side of 0.5 the prediction was. Empty while the outcomes do not have two values.
    """

    release: str
    since: datetime
    arm: str
    version: int
    shadow: bool
    predictions: int
    known: int
    metrics: dict[str, float]


class OutcomesReport(Struct, frozen=True):
    """A model's predictions with their outcomes.

    Attributes:
        model: the name of the model.
        arms: each arm of each release, in the order of their first predictions.
        rows: a polars frame with a row for each prediction, in order of time: `id`, `version`, `arm`, `shadow`,
            `shadow_of`, `at`, `entity` (JSON text), `value` (a number; for a multiclass model the list of
            probabilities), `release`, `outcome` and `outcome_at` (null while they are not known).
    """

    model: str
    arms: list[ArmOutcomes]
    rows: pl.DataFrame


def outcomes(workspace: Workspace, model: str) -> OutcomesReport:
    """Joins the model's ingested predictions with its ingested outcomes.

    Raises:
        CallError: the model does not exist or declares no outcomes, or no prediction or outcome was ever
            ingested.
        ProjectError: the events cannot be joined with the predictions.
    """
    project = workspace.whole_project
    declared = project.model(model).outcomes
    if declared is None:
        raise CallError(
            f"model {model!r} declares no outcomes",
            where=str(project.model(model).place),
            remedy="Name the events that say what happened: Model(..., outcomes=Outcomes(EVENT, value=...)).",
        )
    events = read_input(project, workspace.lake, declared.event)
    rows = join_outcomes(_read_predictions(workspace, model), events, declared)
    return OutcomesReport(model, _compare_arms(workspace, model, rows), rows)


def _read_predictions(workspace: Workspace, model: str) -> pl.DataFrame:
    import polars as pl

    table = workspace.lake.table(TABLE)
    stored = (
        table.scan()
        .filter("_valid", pl.col("model") == model, pl.col("error").is_null())
        .select(_COLUMNS)
        .collect()
        .sort("at", "id")
    )
    values = [msgspec.json.decode(text) for text in stored["value"]]
    return stored.with_columns(pl.Series("value", values, strict=False))


def _compare_arms(workspace: Workspace, model: str, rows: pl.DataFrame) -> list[ArmOutcomes]:
    arms = []
    for part in rows.partition_by("release", "arm", maintain_order=True):
        first, known = part.row(0, named=True), part.drop_nulls("outcome")
        report = read_report(workspace.registry.bundle(model, first["version"]))
        arm = ArmOutcomes(
            release=first["release"],
            since=first["at"],
            arm=first["arm"],
            version=first["version"],
            shadow=first["shadow"],
            predictions=len(part),
            known=len(known),
            metrics=evaluate_outcomes(report, known["outcome"], np.array(known["value"].to_list()))
            if known["outcome"].n_unique() > 1
            else {},
        )
        arms.append(arm)
    return arms


def evaluate_outcomes(
    report: TrainingReport, outcome: pl.Series, outputs: npt.NDArray[np.float64]
) -> dict[str, float]:
    """The metrics of a model's outputs by the task of the version.

    Args:
        report: the report of the version.
        outcome: what really happened.
        outputs: the model's outputs (training.trainers.port.Outputs).
    """
    evaluator, classes = evaluator_for(report.task), tuple[Label, ...]()
    if isinstance(report.test, MulticlassEvaluation):
        classes = tuple(metrics.label for metrics in report.test.classes)
    target = evaluator.encode(outcome, classes)
    metrics = evaluator.evaluate(target, outputs, classes).metrics
    if report.task == "binary":
        metrics = {"accuracy": float(((outputs >= 0.5) == (target == 1)).mean()), **metrics}
    return metrics
