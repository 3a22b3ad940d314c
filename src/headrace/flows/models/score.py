"""score: predicts many rows at once, with features joined from the tables as for a training set.

It is the code of a training set (point-in-time join), of serving (request schema, matrix) and of the version
(predictor): no feature and no answer is computed in a second way.
"""

from __future__ import annotations

import logging
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
import polars as pl
from msgspec import Meta, Struct

from headrace.features.offline.point_in_time import MOMENT, join
from headrace.features.plan import FeaturePlan, decode_plan
from headrace.features.values.columns import POLARS
from headrace.features.values.matrix import Matrix
from headrace.features.values.on_demand import OnDemandError
from headrace.flows.models.release import check_model
from headrace.kernel.errors import CallError, Unavailable
from headrace.kernel.time import now
from headrace.serving.as_of.history import History
from headrace.serving.errors import WrongValue
from headrace.serving.prediction import Value
from headrace.serving.request_schema import RequestSchema
from headrace.serving.servable import decode_answers, find_no_numbers
from headrace.training.files import MODEL, PLAN
from headrace.training.trainers.folder import Predictor, load_model
from headrace.training.training_set import table_reader, visible_snapshots
from headrace.workspace import Workspace

__all__ = ["Score", "Scores", "add_scores", "check_columns", "list_answers", "make_answers", "score"]

_logger = logging.getLogger(__name__)
_FIELD = re.compile(r"\$\.([^`\[]+)|field `([^`]+)`")
_Moment = Annotated[datetime, Meta(tz=True)]


class Score(Struct, frozen=True):
    """The answer for one row.

    Attributes:
        value: a number, or of a model with classes the label; None if there is no answer.
        probabilities: class → probability, of a model with classes.
        missing: the features that were missing.
        error: why there is no answer: an on-demand function failed, the model does not predict without a
            feature that is missing, or its answer is not a finite number; else None.
        features: feature (`view__feature`) → value as the model saw it; empty if an on-demand function failed.
    """

    value: Value | None
    probabilities: dict[str, float] | None
    missing: list[str]
    error: str | None
    features: dict[str, Any]


class Scores(Struct, frozen=True):
    """The answers of one version, in the order of the rows.

    Attributes:
        model, version: who answered.
        at: the moment of all rows; None if each row has its own.
        rows: the answers.
    """

    model: str
    version: int
    at: datetime | None
    rows: list[Score]


def score(
    workspace: Workspace,
    model: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    version: int | str = "champion",
    time: str | None = None,
    is_text: bool = False,
) -> Scores:
    """Predicts each row by a version, with the features as they were known at the row's moment.

    Args:
        workspace: the project to work on.
        model: the name of the model.
        rows: column → value; the entity keys and request fields of the version. Other columns are not read.
        version: the number or alias of the version, which need not be released.
        time: the column with each row's moment; by default `event_timestamp`, if a row has it. Without such a
            column all rows are predicted as of now.
        is_text: whether all values are text, as in a CSV file; an empty one is missing.

    Raises:
        CallError: the model or the version does not exist, a row lacks a field or has a wrong value (the error
            names the row, from 1 on, and the field), or a table of the features has no rows.
        Unavailable: events from before the last row's moment are not in their tables yet.
        Refused: the version's bundle was changed.
        OnDemandError: an on-demand function fails on too many rows.
    """
    check_model(workspace, model)
    number = workspace.registry.version(model, version).version
    bundle = workspace.registry.bundle(model, number)
    plan, predictor = decode_plan((bundle / PLAN).read_bytes()), load_model(bundle / MODEL)
    if time is None and any(MOMENT in row for row in rows):
        time = MOMENT
    at = now() if time is None else None
    labels = _make_labels(plan, rows, time, at, is_text=is_text)
    snapshots = visible_snapshots(workspace.visible, dict.fromkeys(view.table for view in plan.stored))
    _check_events(workspace, plan, labels, is_now=at is not None)
    if labels.is_empty():
        return Scores(model, number, at, [])
    read = table_reader(workspace.project, workspace.lake, snapshots)
    failed: dict[int, OnDemandError] = {}
    features = join(labels, plan, read, failed=failed)
    answers = _predict(plan, predictor, features.filter(~pl.int_range(pl.len()).is_in(list(failed))))
    scores = [
        Score(None, None, [], f"on-demand view {failed[index].where!r} fails", {})
        if index in failed
        else next(answers)
        for index in range(len(rows))
    ]
    return Scores(model, number, at, scores)


def _predict(plan: FeaturePlan, predictor: Predictor, features: pl.DataFrame) -> Iterator[Score]:
    """The answers for rows of features, in their order."""
    matrix = Matrix(plan, predictor.meta.encoding)
    texts = [feature.column for feature in plan.features if feature.dtype == "string"]
    first = 0
    for part in matrix.slices(features):
        frame = features[first : first + len(part.matrix)]
        first += len(frame)
        seen = matrix.values(part, {column: frame[column].to_list() for column in texts})
        missing = matrix.missing(part)
        is_refused = [plan.missing == "refuse" and bool(names) for names in missing]
        kept = [row for row in range(len(frame)) if not is_refused[row]]
        answers: dict[int, tuple[Value, dict[str, float] | None]] = {}
        no_numbers: set[int] = set()
        if kept:
            outputs = predictor.predict(part.matrix[kept])
            no_numbers = {kept[place] for place in find_no_numbers(outputs)}
            values, probabilities = decode_answers(predictor, outputs)
            shares = [None] * len(kept) if probabilities is None else probabilities
            answers = {
                row: (values[place], shares[place]) for place, row in enumerate(kept) if row not in no_numbers
            }
        for row in range(len(frame)):
            value, classes = answers.get(row, (None, None))
            error = "features are missing" if is_refused[row] else None
            if row in no_numbers:
                error = "the model's answer is not a finite number"
            yield Score(value, classes, missing[row], error, dict(zip(matrix.columns, seen[row], strict=True)))


def add_scores(frame: pl.DataFrame, scores: Scores, *, explain: bool = False) -> pl.DataFrame:
    """The frame with the columns of `list_answers`.

    Raises:
        CallError: the frame has a column of such a name.
    """
    answers = make_answers(scores, explain=explain)
    check_columns(frame.columns, answers.columns)
    return frame.hstack(answers)


def make_answers(scores: Scores, *, explain: bool = False) -> pl.DataFrame:
    """`list_answers` as a frame, whose columns have their types even if no row has a value."""
    schema: dict[str, Any] = {"missing": pl.List(pl.String), "error": pl.String, "version": pl.Int64}
    if not scores.rows:
        return pl.DataFrame(schema={"value": pl.Float64(), **schema})
    return pl.DataFrame(
        list_answers(scores, explain=explain), schema_overrides=schema, infer_schema_length=None
    )


def list_answers(scores: Scores, *, explain: bool = False) -> list[dict[str, Any]]:
    """For each row `value`, `probabilities` (if the model has classes), `missing`, `error` and `version`; with
    `explain` also each feature."""
    has_classes = any(row.probabilities is not None for row in scores.rows)
    names = next((list(row.features) for row in scores.rows if row.features), []) if explain else []
    return [
        {
            "value": row.value,
            **({"probabilities": row.probabilities} if has_classes else {}),
            "missing": row.missing,
            "error": row.error,
            "version": scores.version,
            **{name: row.features.get(name) for name in names},
        }
        for row in scores.rows
    ]


def check_columns(given: Iterable[str], added: Iterable[str]) -> None:
    """Raises CallError if a column of the rows has the name of one that is added."""
    columns = set(given)
    taken = [name for name in added if name in columns]
    if taken:
        raise CallError(
            f"the rows have a column {taken[0]!r} already, and the answers get that name",
            where=f"column {taken[0]}",
            remedy="Rename or drop it.",
        )


def _make_labels(
    plan: FeaturePlan,
    rows: Sequence[Mapping[str, Any]],
    time: str | None,
    at: datetime | None,
    *,
    is_text: bool,
) -> pl.DataFrame:
    """The rows as the join takes them, checked as serving checks a request."""
    schema = RequestSchema([plan], gives_features=False)
    names, (type_, *_) = list(schema.fields), schema.instance_types
    # As JSON, as a request brings them: NaN is null.
    encode, decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(type_, strict=not is_text).decode
    instances, moments = [], []
    absent = (None, "") if is_text else (None,)
    for index, row in enumerate(rows):
        fields = {name: row[name] for name in names if row.get(name) not in absent}
        try:
            instances += schema.to_values([decode(encode(fields))])
            if time is not None:
                moments.append(_read_moment(row, time))
        except (msgspec.ValidationError, WrongValue, TypeError) as error:
            raise _wrong_row(index, row, str(error), names) from error
    columns = {
        name: pl.Series([instance[name] for instance in instances], dtype=POLARS[dtype])
        for name, dtype in schema.fields.items()
    }
    instants = [at] * len(rows) if time is None else moments
    return pl.DataFrame({**columns, MOMENT: pl.Series(instants, dtype=pl.Datetime("us", "UTC"))})


def _read_moment(row: Mapping[str, Any], time: str) -> datetime:
    if row.get(time) is None:
        raise msgspec.ValidationError(f"Object missing required field `{time}`")
    try:
        return msgspec.convert(row[time], _Moment)
    except msgspec.ValidationError as error:
        raise msgspec.ValidationError(f"{error} - at `$.{time}`") from error


def _wrong_row(index: int, row: Mapping[str, Any], what: str, names: Sequence[str]) -> CallError:
    """The error of a row; msgspec's text names the field, in a path or as the one that is missing."""
    match = _FIELD.search(what)
    field = "" if match is None else match[1] or match[2]
    value = "" if row.get(field) is None else f": {reprlib.repr(row[field])}"
    return CallError(
        what.partition(" - at ")[0] + value,
        where=f"row {index + 1:,}" + (f", field {field}" if field else ""),
        remedy=f"Each row needs {', '.join(names)}.",
    )


def _check_events(workspace: Workspace, plan: FeaturePlan, labels: pl.DataFrame, *, is_now: bool) -> None:
    """Checks that the tables have the events from before the last row's moment. As of now, where events arrive
    all the time, it only warns."""
    last = labels[MOMENT].max()
    if not isinstance(last, datetime):
        return
    try:
        History(workspace.lake, workspace.log).check_events(plan, min(last, now()))
    except Unavailable as error:
        if not is_now:
            raise
        _logger.warning("the newest events do not count: %s", error.what)
