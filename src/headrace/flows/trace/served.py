"""Reads logged predictions for the checks, by the version that made them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import polars as pl

from headrace.features.checks.recompute import ServedPrediction
from headrace.features.online import RowPosition, ServedPosition, StreamPosition
from headrace.features.plan import FeaturePlan, decode_plan
from headrace.features.values.conversion import decode_fields
from headrace.kernel.errors import CallError
from headrace.kernel.time import micros
from headrace.lake import Lake
from headrace.serving.prediction import TABLE, scan_predictions
from headrace.training.files import PLAN
from headrace.workspace import Workspace

__all__ = ["TOGETHER", "read_served"]

TOGETHER = 50_000
"""How many predictions a check compares at once."""

_NO_PLAN = ""  # of an MLflow model, which reads no features
_COLUMNS = ("id", "model", "version", "at", "entity", "request", "features", "positions")


def read_served(
    workspace: Workspace, model: str | None, limit: int, *, together: int | None = None
) -> Iterator[tuple[str, FeaturePlan, list[ServedPrediction]]]:
    """The newest logged predictions: for each `model@version`, the plan that was served, and the predictions.

    Args:
        workspace: the project to work on.
        model: only this model's predictions.
        limit: the greatest number of predictions.
        together: about how many predictions are in memory at once; a version with more comes several times.
            None: each version comes once.

    Raises:
        CallError: no prediction has been ingested yet.
        Refused: a version's bundle was changed.
    """
    logged = _logged(workspace.lake, model)
    newest = logged.select("model", "version", "at").sort("at", descending=True).head(limit).collect()
    if newest.is_empty():
        raise _none_ingested(model)
    for (name, version), moments in sorted(newest.group_by("model", "version"), key=lambda group: group[0]):
        plan = decode_plan((workspace.registry.bundle(name, version) / PLAN).read_bytes())
        rows = logged.filter(pl.col("model") == name, pl.col("version") == version).select(_COLUMNS)
        ordered, first = moments["at"].sort(), 0
        while first < len(ordered):
            end = len(ordered) if together is None else first + together
            # Predictions of one moment stay together, but for those of the first beyond the limit.
            end = int(ordered.search_sorted(ordered[min(end, len(ordered)) - 1], "right"))
            inside = pl.col("at").is_between(ordered[first], ordered[end - 1])
            chunk = rows.filter(inside).sort("at", "id", descending=True).head(end - first).collect()
            yield f"{name}@{version}", plan, [_prediction_of(row, plan) for row in chunk.iter_rows(named=True)]
            first = end


def _logged(lake: Lake, model: str | None) -> pl.LazyFrame:
    """The logged predictions of models that read features, at one snapshot."""
    table = lake.table(TABLE) if lake.table_exists(TABLE) else None
    snapshot = None if table is None else table.current_snapshot()
    if table is None or snapshot is None:
        raise _none_ingested(model)
    logged = scan_predictions(lake, snapshot.id).filter(pl.col("plan") != _NO_PLAN, pl.col("error").is_null())
    return logged if model is None else logged.filter(pl.col("model") == model)


def _none_ingested(model: str | None) -> CallError:
    return CallError(
        "no prediction" + (f" of model {model!r}" if model else "") + " has been ingested yet",
        where=f"table {TABLE}",
        remedy="headrace up answers predictions and ingests them; or run headrace ingest --until-end.",
    )


def _prediction_of(row: dict[str, Any], plan: FeaturePlan) -> ServedPrediction:
    """The prediction in a row of the table, where nested values are JSON text.

    It has no positions if the client gave a feature itself, because such a feature cannot be recomputed.
    """
    request = msgspec.json.decode(row["request"])
    positions: dict[str, ServedPosition] = msgspec.convert(
        msgspec.json.decode(row["positions"]), dict[str, StreamPosition | RowPosition], strict=False
    )
    return ServedPrediction(
        id=row["id"],
        at=micros(row["at"]),
        keys=msgspec.json.decode(row["entity"]),
        values=msgspec.json.decode(row["features"]),
        positions={} if any(feature.column in request for feature in plan.features) else positions,
        request=decode_fields(plan.request, request),
    )
