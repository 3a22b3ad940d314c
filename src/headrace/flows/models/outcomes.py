"""outcomes: a model's predictions with what really happened, and how good each version is in truth."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from headrace.declare.outcomes import Outcomes
from headrace.kernel.errors import CallError, ProjectError
from headrace.serving.outcomes import join_outcomes
from headrace.serving.prediction import scan_predictions
from headrace.tables.read import read_input
from headrace.training.evaluation import evaluator_for
from headrace.training.evaluation.multiclass import MulticlassEvaluation
from headrace.training.report import TrainingReport, read_report
from headrace.training.trainers.port import Label
from headrace.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "ArmOutcomes",
    "OutcomesReport",
    "add_outcomes",
    "are_targets",
    "decode_outputs",
    "evaluate_outcomes",
    "outcomes",
]

_COLUMNS = (
    "id",
    "version",
    "arm",
    "shadow",
    "shadow_of",
    "at",
    "entity",
    "value",
    "probabilities",
    "release",
)
_logger = logging.getLogger(__name__)


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
            outcomes on whose side of the model's threshold the prediction was. Empty while the outcomes do not
            have two values.
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
            `shadow_of`, `at`, `entity` (JSON text), `value` (a number, or a label), `release`, `outcome` and
            `outcome_at` (null while they are not known).
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
    import polars as pl

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
    arms = _compare_arms(workspace, model, rows, project.model(model).threshold)
    values = [msgspec.json.decode(text) for text in rows["value"]]
    rows = rows.drop("probabilities").with_columns(pl.Series("value", values, strict=False))
    return OutcomesReport(model, arms, rows)


def _read_predictions(workspace: Workspace, model: str) -> pl.DataFrame:
    import polars as pl

    return (
        scan_predictions(workspace.lake)
        .filter(pl.col("model") == model, pl.col("error").is_null())
        .select(_COLUMNS)
        .collect()
        .sort("at", "id")
    )


def add_outcomes(workspace: Workspace, declared: Outcomes | None, predictions: pl.DataFrame) -> pl.DataFrame:
    """Joins predictions with the ingested outcomes (serving.outcomes.join_outcomes).

    No outcome is known if none is declared, or none was ever ingested.

    Raises:
        ProjectError: the events cannot be joined with the predictions.
    """
    import polars as pl

    if declared is None or not workspace.lake.table_exists(declared.event.table):
        return predictions.with_columns(outcome=pl.lit(None), outcome_at=pl.lit(None))
    events = read_input(workspace.whole_project, workspace.lake, declared.event)
    return join_outcomes(predictions, events, declared)


def _compare_arms(workspace: Workspace, model: str, rows: pl.DataFrame, threshold: float) -> list[ArmOutcomes]:
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
            metrics=evaluate_outcomes(
                report, known["outcome"], decode_outputs(known, labels_of(report)), threshold
            ),
        )
        arms.append(arm)
    return arms


def decode_outputs(rows: pl.DataFrame, labels: Sequence[Label]) -> npt.NDArray[np.float64]:
    """The logged answers in the form of the model's outputs (training.trainers.port.Outputs).

    Args:
        rows: predictions with `value` and `probabilities` as JSON text.
        labels: the model's classes; empty for a model without classes.

    Returns:
        Of shape (rows,), or (rows, classes): NaN for a class that the version that answered did not have.
    """
    if not labels:
        return np.array(msgspec.json.decode("[" + ",".join(rows["value"]) + "]"), dtype=np.float64)
    names = [str(label) for label in labels]
    texts = ["{}" if text is None else text for text in rows["probabilities"]]
    decoded = msgspec.json.decode("[" + ",".join(texts) + "]")
    return np.array([[row.get(name, np.nan) for name in names] for row in decoded], dtype=np.float64)


def are_targets(report: TrainingReport, outcome: pl.Series) -> pl.Series:
    """Which outcomes are values of the version's target: of a binary model 0 and 1 (or false and true), of a
    multiclass model its classes. Logs a warning where some are not.

    Raises:
        ProjectError: the target is a number, and the outcomes are text or another type.
    """
    import polars as pl

    kind, are_valid = outcome.dtype, outcome.is_not_null()
    if classes := labels_of(report):
        outcome = outcome.cast(str)
        are_valid = outcome.is_in([str(label) for label in classes])
    elif report.task != "multiclass" and not (kind.is_numeric() or isinstance(kind, pl.Boolean)):
        raise ProjectError(
            f"outcomes of model {report.model!r} are {kind}, and its target is a number",
            remedy="Name a field with values of the target: Outcomes(..., value=FIELD).",
        )
    elif report.task == "binary":
        are_valid = outcome.cast(float).is_in([0.0, 1.0])
    if not are_valid.all():
        others = ", ".join(map(str, outcome.filter(~are_valid).unique().sort()[:5]))
        _logger.warning("outcomes that are not values of the model's target are left out: %s", others)
    return are_valid


def labels_of(report: TrainingReport) -> tuple[Label, ...]:
    """The classes of a multiclass version; of others none."""
    if not isinstance(report.test, MulticlassEvaluation):
        return ()
    return tuple(metrics.label for metrics in report.test.classes)


def evaluate_outcomes(
    report: TrainingReport, outcome: pl.Series, outputs: npt.NDArray[np.float64], threshold: float
) -> dict[str, float]:
    """The metrics of a model's outputs by the task of the version; none if all outcomes are equal.

    Args:
        report: the report of the version.
        outcome: what really happened. One that is not a value of the target is left out, with a warning.
        outputs: the model's outputs (training.trainers.port.Outputs). NaN counts as the probability 0.
        threshold: the probability from which on a binary model's answer counts as yes.

    Raises:
        ProjectError: the target is a number, and the outcomes are text or another type.
    """
    evaluator, classes = evaluator_for(report.task), labels_of(report)
    if outcome.is_empty():
        return {}
    are_valid = are_targets(report, outcome)
    outcome, outputs = outcome.filter(are_valid), outputs[are_valid.to_numpy()]
    if classes:
        outcome = outcome.cast(str).replace_strict({str(label): label for label in classes})
        outputs = np.nan_to_num(outputs)
    if outcome.n_unique() < 2:
        return {}
    target = evaluator.encode(outcome, classes)
    metrics = evaluator.evaluate(target, outputs, classes).metrics
    if report.task == "binary":
        metrics = {"accuracy": float(((outputs >= threshold) == (target == 1)).mean()), **metrics}
    return metrics
