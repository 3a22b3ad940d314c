"""backtest: what another version would have answered to the logged requests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
from msgspec import Struct

from headrace.declare.metrics import Task
from headrace.declare.model import threshold_of
from headrace.features.plan import FeaturePlan, decode_plan
from headrace.features.values.matrix import Matrix
from headrace.flows.models.outcomes import add_outcomes, decode_outputs, evaluate_outcomes
from headrace.flows.models.release import check_model
from headrace.kernel.errors import CallError
from headrace.serving.as_of.replay import LoggedRequests, features_as_known, read_requests
from headrace.serving.prediction import REQUEST
from headrace.serving.servable import find_no_numbers
from headrace.training.files import MODEL, PLAN
from headrace.training.report import TrainingReport, read_report
from headrace.training.trainers.folder import Predictor, load_model
from headrace.training.training_set import table_reader, visible_snapshots
from headrace.workspace import Workspace

__all__ = ["BacktestReport", "BacktestSlice", "backtest"]

_SLICES = 20  # values of the field that are slices of their own
_ALL = "all"
_SUMMARY = ("requests", "equal", "decisions_changed", "mean_difference", "greatest_difference", "known")
_COLUMNS = ("id", "at", "version", "logged", "replayed", "equal", "slice", "outcome")


class BacktestSlice(Struct, frozen=True):
    """How two versions answer the same requests.

    Attributes:
        name: the slice: `all`, or the value of the field.
        requests: how many requests were replayed.
        equal: how many answers are equal to the last bit.
        decisions_changed: how many answers lead to another decision: another label, or another side of the
            threshold; None for a regression.
        mean_difference: the mean of the new value minus the logged one; None for labels.
        greatest_difference: the greatest absolute difference; None for labels.
        known: how many requests have an outcome.
        logged, replayed: the metrics of the model's task over those, of both answers; empty while the outcomes
            do not have two values.
    """

    name: str
    requests: int
    equal: int
    decisions_changed: int | None
    mean_difference: float | None
    greatest_difference: float | None
    known: int
    logged: dict[str, float]
    replayed: dict[str, float]


class BacktestReport(Struct, frozen=True):
    """The result of a backtest.

    Attributes:
        model, version: what was tried.
        threshold: the probability from which on a binary model's answer counts as yes.
        since, until: the moments of the first and the last request.
        left_out: why requests could not be replayed, or would have been refused → how many.
        slices: all requests, and each value of the field.
        rows: a polars frame with a row for each replayed request: `id`, `at`, `version`, `logged`, `replayed`
            (a number or a label), `equal`, `slice`, `outcome`.
    """

    model: str
    version: int
    threshold: float
    since: datetime
    until: datetime
    left_out: dict[str, int]
    slices: list[BacktestSlice]
    rows: pl.DataFrame

    @property
    def table(self) -> pl.DataFrame:
        """A frame with a row for each slice, and for each metric the two columns `NAME, logged` and `NAME,
        replayed`."""
        metrics = list(dict.fromkeys(name for part in self.slices for name in part.logged))
        return pl.DataFrame(
            [
                {
                    "slice": part.name,
                    **{name: getattr(part, name) for name in _SUMMARY},
                    **{
                        f"{metric}, {side}": values.get(metric)
                        for metric in metrics
                        for side, values in (("logged", part.logged), ("replayed", part.replayed))
                    },
                }
                for part in self.slices
            ],
            infer_schema_length=None,
        )

    def _repr_html_(self) -> str:
        """The report for a notebook."""
        title = f"{self.model}@{self.version}: requests from {self.since:%F %T} to {self.until:%F %T} UTC"
        left_out = [f"left out: {count:,}, {reason}" for reason, count in self.left_out.items()]
        lines = "".join(f"<p>{escape(line)}</p>" for line in left_out)
        with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_hide_dataframe_shape=True):
            return f"<p>{escape(title)}</p>{self.table._repr_html_()}{lines}"


def backtest(
    workspace: Workspace,
    model: str,
    version: int,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    by: str | None = None,
    limit: int | None = None,
    threshold: float | None = None,
) -> BacktestReport:
    """Answers logged requests by a version, with the features as they were known at each request's moment.

    Args:
        workspace: the project to work on.
        model, version: the version, which need not be released. Its views need not have been served.
        since, until: the first moment, and the first one after the last.
        by: the field whose values are slices: an entity key, a field of the request, a feature, `arm` or
            `version`.
        limit: the greatest number of requests; the newest are replayed.
        threshold: the probability from which on a binary model's answer counts as yes; None: the one that the
            model declares.

    Raises:
        CallError: the threshold is not a probability, the model does not exist, no request of that time has
            been ingested, the version does not exist or has another task than one that answered, no request
            has the field, or a table of the version's features has no rows.
        Refused: a version's bundle was changed.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise CallError(f"the threshold {threshold} is not a probability from 0 to 1")
    check_model(workspace, model)
    bundle = workspace.registry.bundle(model, version)
    plan, report = decode_plan((bundle / PLAN).read_bytes()), read_report(bundle)
    predictor = load_model(bundle / MODEL)
    logged = read_requests(workspace.lake, model, since, until, limit)
    plans = _served_plans(workspace, model, logged, report.task)
    project, lake, visible = workspace.project, workspace.lake, workspace.visible
    features, left_out = features_as_known(
        logged, plan, plans, lambda name: table_reader(project, lake, visible_snapshots(visible, [name]))(name)
    )
    matrix = Matrix(plan, predictor.meta.encoding)
    if plan.missing == "refuse":
        left_out = _leave_out(left_out, (~matrix.complete(features)).arg_true(), "missing features")
    outputs = _predict(predictor, matrix, features)
    left_out = _leave_out(left_out, find_no_numbers(outputs), "the model's answer is not a finite number")
    logged_outputs = decode_outputs(logged.rows, predictor.meta.classes)
    _repeat_by_request(predictor, matrix, features, logged, version, outputs, logged_outputs)
    rows = _compare(logged, predictor, outputs, logged_outputs, _slice_of(logged, by))
    declared = workspace.whole_project.models.get(model)
    threshold = threshold_of(declared) if threshold is None else threshold
    rows = add_outcomes(workspace, declared.outcomes if declared else None, rows)
    kept = left_out.is_null()
    slices = [
        _summarize(name, rows, outputs, logged_outputs, mask.to_numpy(), report, threshold)
        for name, mask in _parts(rows, kept, by)
    ]
    counts = dict(left_out.drop_nulls().value_counts(sort=True).rows())
    first, last = logged.rows["at"][0], logged.rows["at"][-1]
    return BacktestReport(model, version, threshold, first, last, counts, slices, rows.filter(kept)[_COLUMNS])


def _served_plans(
    workspace: Workspace, model: str, logged: LoggedRequests, task: Task
) -> dict[int, FeaturePlan]:
    """The plan of each version that answered. Raises CallError if one has another task: answers of two tasks
    cannot be compared."""
    plans = {}
    for version in logged.rows["version"].unique().to_list():
        bundle = workspace.registry.bundle(model, version)
        answered = read_report(bundle).task
        if answered != task:
            raise CallError(
                f"version {version}, which answered requests of this time, has the task {answered}, not {task}",
                remedy="Choose a time in which versions of the same task answered, with --since and --until.",
            )
        plans[version] = decode_plan((bundle / PLAN).read_bytes())
    return plans


def _parts(rows: pl.DataFrame, kept: pl.Series, by: str | None) -> list[tuple[str, pl.Series]]:
    """The name of each slice, the most frequent first, and which of the rows are in it."""
    names = [] if by is None else rows.filter(kept)["slice"].value_counts(sort=True)["slice"].to_list()
    return [(_ALL, kept), *((name, kept & (rows["slice"] == name)) for name in names)]


def _leave_out(left_out: pl.Series, rows: Sequence[int] | pl.Series, why: str) -> pl.Series:
    """Adds the reason to these rows, unless they have one."""
    is_new = pl.int_range(len(left_out), eager=True).is_in(pl.Series(rows, dtype=pl.Int64).implode())
    return pl.select(pl.when(is_new & left_out.is_null()).then(pl.lit(why)).otherwise(left_out)).to_series()


def _predict(predictor: Predictor, matrix: Matrix, features: pl.DataFrame) -> npt.NDArray[np.float64]:
    return np.concatenate([predictor.predict(rows.matrix) for rows in matrix.slices(features)])


def _repeat_by_request(
    predictor: Predictor,
    matrix: Matrix,
    features: pl.DataFrame,
    logged: LoggedRequests,
    version: int,
    outputs: npt.NDArray[np.float64],
    logged_outputs: npt.NDArray[np.float64],
) -> None:
    """Predicts again, request by request, what the same version answered otherwise. Changes `outputs`.

    A library may add up a batch in another order than a few rows.
    """
    differ = outputs != logged_outputs
    differ = (differ.any(axis=1) if differ.ndim == 2 else differ) & (
        logged.rows["version"] == version
    ).to_numpy()
    if not differ.any():
        return
    groups = logged.rows.select(pl.struct(REQUEST).rle_id()).to_series().to_numpy()
    for group in np.unique(groups[differ]):
        first, last = np.searchsorted(groups, [group, group + 1]).tolist()  # the rows are sorted by requests
        outputs[first:last] = predictor.predict(matrix.of_frame(features[first:last]).matrix)


def _compare(
    logged: LoggedRequests,
    predictor: Predictor,
    outputs: npt.NDArray[np.float64],
    logged_outputs: npt.NDArray[np.float64],
    slices: pl.Series,
) -> pl.DataFrame:
    equal = outputs == logged_outputs
    labels = predictor.meta.classes
    if labels:
        equal = equal.all(axis=1)
        replayed = pl.Series([str(labels[code]) for code in outputs.argmax(axis=1)])
        answered = pl.Series([str(msgspec.json.decode(text)) for text in logged.rows["value"]])
    else:
        replayed, answered = pl.Series(outputs), pl.Series(logged_outputs)
    return logged.rows.select("id", "shadow_of", "at", "version", "entity").with_columns(
        answered.alias("logged"), replayed.alias("replayed"), pl.Series("equal", equal), slices.alias("slice")
    )


def _slice_of(logged: LoggedRequests, by: str | None) -> pl.Series:
    """The slice of each request; of the rarer values `other`."""
    if by is None:
        return pl.Series([_ALL] * len(logged.fields))
    if by in ("arm", "version"):
        values = logged.rows[by].cast(pl.String)
    else:
        pairs = list(zip(logged.fields, logged.features, strict=True))
        if not any(by in fields or by in features for fields, features in pairs):
            names = sorted({*logged.fields[-1], *logged.features[-1], "arm", "version"})
            raise CallError(f"no request has the field {by!r}", remedy=f"The newest has {', '.join(names)}.")
        read: list[Any] = [fields.get(by, features.get(by)) for fields, features in pairs]
        values = pl.Series([None if value is None else _name_slice(value) for value in read], dtype=pl.String)
    frequent = values.drop_nulls().value_counts(sort=True)[:_SLICES].get_columns()[0]
    return pl.select(
        pl.when(values.is_null())
        .then(pl.lit("(none)"))
        .when(values.is_in(frequent.implode()))
        .then(values)
        .otherwise(pl.lit("(other)"))
    ).to_series()


def _name_slice(value: Any) -> str:
    """The value as a slice's name. Features are served as floats, those of whole numbers too."""
    return str(int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e16 else value)


def _summarize(
    name: str,
    rows: pl.DataFrame,
    outputs: npt.NDArray[np.float64],
    logged_outputs: npt.NDArray[np.float64],
    mask: npt.NDArray[np.bool_],
    report: TrainingReport,
    threshold: float,
) -> BacktestSlice:
    part, new, old = rows.filter(mask), outputs[mask], logged_outputs[mask]
    changed: int | None = None
    if report.task == "multiclass":
        changed = int((part["logged"] != part["replayed"]).sum())
    elif report.task == "binary":
        changed = int(((new >= threshold) != (old >= threshold)).sum())
    is_number = new.ndim == 1 and len(new) > 0
    known = part["outcome"].is_not_null().to_numpy()
    outcome = part["outcome"].drop_nulls()
    metrics = [evaluate_outcomes(report, outcome, answers[known], threshold) for answers in (old, new)]
    return BacktestSlice(
        name=name,
        requests=len(part),
        equal=int(part["equal"].sum()),
        decisions_changed=changed,
        mean_difference=float((new - old).mean()) if is_number else None,
        greatest_difference=float(np.abs(new - old).max()) if is_number else None,
        known=len(outcome),
        logged=metrics[0],
        replayed=metrics[1],
    )
