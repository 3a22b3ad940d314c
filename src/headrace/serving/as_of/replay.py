"""Replay: a model's logged requests, with the features of another plan as they were known at each moment.

A feature whose view was served is taken from the log: that is what was known, also where events came late or
the client gave it. A feature of another view is joined point-in-time, as for a training set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import polars as pl
from attrs import frozen

from headrace.features.offline.point_in_time import MOMENT, join
from headrace.features.plan import FeaturePlan, OnDemandView, find_needed
from headrace.features.plan.dtypes import Dtype
from headrace.features.values.columns import POLARS
from headrace.features.values.conversion import json_type
from headrace.features.values.on_demand import OnDemandError
from headrace.kernel.errors import CallError
from headrace.lake import Lake
from headrace.serving.prediction import REQUEST, TABLE, number_requests, scan_predictions

__all__ = [
    "LoggedRequests",
    "features_as_known",
    "find_answering_release",
    "read_requests",
    "read_requests_at",
]

_COLUMNS = (
    "id",
    "shadow_of",
    "version",
    "at",
    "arm",
    "release",
    "instance",
    "entity",
    "request",
    "features",
    "value",
    "probabilities",
    "missing",
)
_PLAIN = ("int64", "float64", "string", "bool")
_NUMBERS = ("int64", "float64", "bool")


@frozen
class LoggedRequests:
    """Requests that a model answered, in order of time.

    Attributes:
        rows: the columns of their predictions and, if they were logged, `number`; what is nested is JSON text.
        fields: for each, its entity keys and request fields.
        features: for each, column → the value that was logged.
    """

    rows: pl.DataFrame
    fields: list[dict[str, Any]]
    features: list[dict[str, Any]]


def read_requests(
    lake: Lake, model: str, since: datetime | None, until: datetime | None, limit: int | None
) -> LoggedRequests:
    """The requests that clients got an answer to; the newest of them if there are more than `limit`.

    Raises:
        CallError: no prediction of that time has been ingested, or there is no such time.
    """
    if since is not None and until is not None and since >= until:
        raise CallError(f"there is no time from {since:%F %T} until {until:%F %T}")
    remedy = "headrace up answers predictions and ingests them; or run headrace ingest --until-end."
    if not lake.table_exists(TABLE):
        raise CallError("no prediction has been ingested yet", where=f"table {TABLE}", remedy=remedy)
    logged = _scan_answered(lake, model)
    if since is not None:
        logged = logged.filter(pl.col("at") >= since)
    if until is not None:
        logged = logged.filter(pl.col("at") < until)
    rows = number_requests(logged.select(_COLUMNS).collect()).sort(*REQUEST, "instance")
    rows = rows if limit is None else rows.tail(limit)
    if rows.is_empty():
        raise CallError(
            f"no prediction of model {model!r} from this time has been ingested",
            where=f"table {TABLE}",
            remedy=remedy,
        )
    return _decode_requests(rows)


def read_requests_at(lake: Lake, model: str, moment: datetime) -> list[LoggedRequests]:
    """The ingested requests that clients got an answer to at this moment; the instances of one that were
    predicted together are together, in their order then."""
    if not lake.table_exists(TABLE):
        return []
    rows = _scan_answered(lake, model).filter(pl.col("at") == moment).select(_COLUMNS).collect()
    groups = number_requests(rows).sort("instance").partition_by(REQUEST, maintain_order=True)
    return [_decode_requests(group) for group in groups]


def find_answering_release(
    lake: Lake, model: str, since: datetime, until: datetime, release: str
) -> tuple[str, int] | None:
    """The release, and its version, that answered the last request between these moments.

    None: there was no request, or the given release answered one of them.
    """
    if not lake.table_exists(TABLE):
        return None
    logged = _scan_answered(lake, model).filter(pl.col("at").is_between(since, until))
    last = logged.group_by("release").agg(pl.col("at", "version").sort_by("at").last()).collect().sort("at")
    if last.is_empty() or release in last["release"]:
        return None
    return last["release"][-1], last["version"][-1]


def _scan_answered(lake: Lake, model: str) -> pl.LazyFrame:
    answered = ~pl.col("shadow") & pl.col("error").is_null()
    return scan_predictions(lake).filter(answered, pl.col("model") == model, pl.col("plan") != "")


def _decode_requests(rows: pl.DataFrame) -> LoggedRequests:
    entities, requests = _decode(rows["entity"]), _decode(rows["request"])
    fields = [request | entity for entity, request in zip(entities, requests, strict=True)]
    return LoggedRequests(rows, fields, _decode(rows["features"]))


def features_as_known(
    logged: LoggedRequests,
    plan: FeaturePlan,
    plans: Mapping[int, FeaturePlan],
    read: Callable[[str], pl.LazyFrame],
) -> tuple[pl.DataFrame, pl.Series]:
    """The features of the plan for each request.

    Args:
        logged: the requests.
        plan: the plan.
        plans: version → the plan that it served.
        read: returns the rows of the table with the given name, as for a training set.

    Returns:
        The plan's features as the matrix takes them, and for each request why it cannot be replayed, or null.
    """
    columns: dict[str, list[Any]] = {feature.column: [None] * len(logged.fields) for feature in plan.features}
    reasons: list[str | None] = [None] * len(logged.fields)
    versions, missing = logged.rows["version"].to_list(), logged.rows["missing"].to_list()
    for version, served in plans.items():
        places = [index for index, answered in enumerate(versions) if answered == version]
        kept = _served_columns(plan, served)
        for column in kept:
            target = columns[column]
            for index in places:
                target[index] = None if column in missing[index] else logged.features[index].get(column)
        rest = tuple(feature for feature in plan.features if feature.column not in kept)
        if rest:
            joined, part_reasons = _join(logged, places, msgspec.structs.replace(plan, features=rest), read)
            for feature in rest:
                for index, value in zip(places, joined[feature.column], strict=True):
                    columns[feature.column][index] = value
            for index, reason in zip(places, part_reasons, strict=True):
                reasons[index] = reason
    dtypes = {f.column: pl.Float64() if f.dtype in _NUMBERS else pl.String() for f in plan.features}
    series = [pl.Series(name, values, dtypes[name], strict=False) for name, values in columns.items()]
    return pl.DataFrame(series), pl.Series("left_out", reasons, pl.String)


def _served_columns(plan: FeaturePlan, served: FeaturePlan) -> set[str]:
    """The features of the plan that the served plan had, of views that are the same in both."""
    views = {view.name: view for view in served.views}
    same: set[str] = set()
    for view in plan.views:  # an on-demand view comes after the views that it reads
        other = views.get(view.name)
        if other is None or other.digest != view.digest:
            continue
        if isinstance(view, OnDemandView):
            inputs = {source.view for source in view.inputs if source.view is not None}
            if not inputs <= same:
                continue
        same.add(view.name)
    logged = {feature.column for feature in served.features}
    return {feature.column for feature in plan.features if feature.view in same and feature.column in logged}


def _join(
    logged: LoggedRequests, places: Sequence[int], plan: FeaturePlan, read: Callable[[str], pl.LazyFrame]
) -> tuple[dict[str, list[Any]], list[str | None]]:
    """The plan's features at the moments of these requests, and why a request has none, or None."""
    needed = find_needed(plan, frozenset())
    part = msgspec.structs.replace(
        plan,
        views=tuple(view for view in plan.views if view.name in needed.views),
        entities=tuple(key for key in plan.entities if key.join_key in needed.fields),
        request=tuple(field for field in plan.request if field.name in needed.fields),
        missing="model",
    )
    dtypes: dict[str, Dtype] = {key.join_key: key.dtype for key in part.entities}
    dtypes |= {field.name: field.dtype for field in part.request}
    reasons: list[str | None] = [
        next((f"lacks {name!r}" for name in dtypes if logged.fields[index].get(name) is None), None)
        for index in places
    ]
    complete = [place for place, reason in enumerate(reasons) if reason is None]
    fields = [logged.fields[places[place]] for place in complete]
    labels = {
        name: pl.Series(
            [row[name] if dtype in _PLAIN else msgspec.convert(row[name], json_type(dtype)) for row in fields],
            dtype=POLARS[dtype],
            strict=False,
        )
        for name, dtype in dtypes.items()
    }
    at = logged.rows["at"].gather([places[place] for place in complete])
    failed: dict[int, OnDemandError] = {}
    rows = join(pl.DataFrame({**labels, MOMENT: at}), part, read, failed=failed)
    for row, error in failed.items():
        reasons[complete[row]] = f"on-demand view {error.where!r} fails"
    values: dict[str, list[Any]] = {}
    for feature in part.features:
        column: list[Any] = [None] * len(places)
        for place, value in zip(complete, rows[feature.column].to_list(), strict=True):
            column[place] = value
        values[feature.column] = column
    return values, reasons


def _decode(texts: pl.Series) -> list[dict[str, Any]]:
    decoded: list[dict[str, Any]] = msgspec.json.decode("[" + ",".join(texts) + "]")
    return decoded
