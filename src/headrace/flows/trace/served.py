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
from headrace.serving.prediction import TABLE
from headrace.training.files import PLAN
from headrace.workspace import Workspace

__all__ = ["read_served"]

_NO_PLAN = ""  # of an MLflow model, which reads no features
_COLUMNS = ("id", "model", "version", "at", "entity", "request", "features", "positions")


def read_served(
    workspace: Workspace, model: str | None, limit: int
) -> Iterator[tuple[str, FeaturePlan, list[ServedPrediction]]]:
    """The newest logged predictions: for each `model@version`, the plan that was served, and the predictions.

    Args:
        workspace: the project to work on.
        model: only this model's predictions.
        limit: the greatest number of predictions.

    Raises:
        CallError: no prediction has been ingested yet.
        Refused: a version's bundle was changed.
    """
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in _rows(workspace.lake, model, limit):
        groups.setdefault((row["model"], row["version"]), []).append(row)
    for (name, version), rows in sorted(groups.items()):
        plan = decode_plan((workspace.registry.bundle(name, version) / PLAN).read_bytes())
        yield f"{name}@{version}", plan, [_prediction_of(row, plan) for row in rows]


def _rows(lake: Lake, model: str | None, limit: int) -> Iterator[dict[str, Any]]:
    """The newest logged predictions, the newest first."""
    rows = None
    if lake.table_exists(TABLE):
        logged = lake.table(TABLE).scan().filter(pl.col("_valid"), pl.col("plan") != _NO_PLAN)
        logged = logged.filter(pl.col("error").is_null()).select(_COLUMNS)
        if model is not None:
            logged = logged.filter(pl.col("model") == model)
        rows = logged.sort("at", descending=True).head(limit).collect()
    if rows is None or rows.is_empty():
        raise CallError(
            "no prediction" + (f" of model {model!r}" if model else "") + " has been ingested yet",
            where=f"table {TABLE}",
            remedy="headrace up answers predictions and ingests them; or run headrace ingest --until-end.",
        )
    return rows.iter_rows(named=True)


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
