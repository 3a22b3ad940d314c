"""check parity: recomputes served features from the lake at their moments and positions, and compares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import polars as pl

from headrace import lake as lakes
from headrace import registry as registries
from headrace.config.settings import Settings
from headrace.features.checks.parity import ParityReport, check_parity
from headrace.features.checks.recompute import ServedPrediction
from headrace.features.online import RowPosition, ServedPosition, StreamPosition
from headrace.features.plan import FeaturePlan, decode_plan
from headrace.features.values.conversion import decode_fields
from headrace.flows.models.predictions import TABLE
from headrace.kernel.errors import CallError
from headrace.kernel.time import micros
from headrace.lake import Lake
from headrace.projects.project import load_project

__all__ = ["parity"]

_COLUMNS = ("id", "model", "version", "at", "entity", "request", "features", "positions")


def parity(settings: Settings, model: str | None = None, *, limit: int = 1_000) -> dict[str, ParityReport]:
    """`model@version` → the result of the check of its newest predictions.

    Args:
        settings: whose project.
        model: only this model's predictions.
        limit: at most so many predictions, the newest.

    Raises:
        CallError: no prediction has been ingested yet.
        Refused: a version's bundle was changed.
    """
    project = load_project(settings, without=("feast",))
    lake = lakes.open(settings)
    versions = registries.open(settings)
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in _rows(lake, model, limit):
        groups.setdefault((row["model"], row["version"]), []).append(row)
    reports = {}
    for (name, version), rows in sorted(groups.items()):
        plan = decode_plan((versions.bundle(name, version) / "plan.json").read_bytes())
        served = [_parse(row, plan) for row in rows]
        reports[f"{name}@{version}"] = check_parity(project, lake, plan, served)
    return reports


def _rows(lake: Lake, model: str | None, limit: int) -> Iterator[dict[str, Any]]:
    rows = (
        lake.table(TABLE).scan().filter(pl.col("_valid")).select(_COLUMNS) if lake.table_exists(TABLE) else None
    )
    if rows is not None and model is not None:
        rows = rows.filter(pl.col("model") == model)
    newest = None if rows is None else rows.sort("at", descending=True).head(limit).collect()
    if newest is None or newest.is_empty():
        raise CallError(
            "there is no prediction to check" + (f" of model {model!r}" if model else ""),
            where=f"table {TABLE}",
            remedy="headrace up answers predictions and ingests them; or run headrace ingest --until-end.",
        )
    return newest.iter_rows(named=True)


def _parse(row: dict[str, Any], plan: FeaturePlan) -> ServedPrediction:
    """The prediction of one row. The table has nested values as JSON text."""
    positions: dict[str, ServedPosition] = msgspec.convert(
        msgspec.json.decode(row["positions"]), dict[str, StreamPosition | RowPosition], strict=False
    )
    return ServedPrediction(
        id=row["id"],
        at=micros(row["at"]),
        keys=msgspec.json.decode(row["entity"]),
        values=msgspec.json.decode(row["features"]),
        positions=positions,
        request=decode_fields(plan.request, msgspec.json.decode(row["request"])),
    )
