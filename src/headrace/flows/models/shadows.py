"""shadows: how the predictions of shadows differ from those that clients received."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from headrace.declare.metrics import Task
from headrace.declare.model import threshold_of
from headrace.flows.models.release import check_model
from headrace.kernel.errors import CallError
from headrace.serving.prediction import TABLE, scan_predictions
from headrace.training.files import REPORT
from headrace.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

__all__ = ["ShadowComparison", "compare_shadows"]

_COLUMNS = ("id", "version", "arm", "shadow", "shadow_of", "at", "value", "latency_ms", "release", "shared")


class _TrainingRecord(Struct):
    """The part of a training report that is needed here."""

    task: Task


class ShadowComparison(Struct, frozen=True):
    """One shadow of a release beside the answers of one version that clients received.

    Attributes:
        release: the id of the release.
        since: the time of the first prediction.
        arm, version: the shadow, and its version.
        beside: the version that answered.
        is_copy: whether both are the same version. Then what differs is noise: features that changed between
            the answer and the copy of the request.
        predictions: how many predictions are compared.
        differ: the share of them with another value.
        decisions_changed: the share with another label or, of a binary model, another side of the threshold;
            None for a regression.
        mean_distance: the mean absolute difference; None for labels.
        noise: `differ` of the copy of the version that answered, in the same release; None: there is none.
        decision_noise: `decisions_changed` of that copy.
        p50_ms, p99_ms: the latency of the shadow, of requests that shared no call with others; None: all did.
        p50_ms_beside, p99_ms_beside: that of the answers.
    """

    release: str
    since: datetime
    arm: str
    version: int
    beside: int
    is_copy: bool
    predictions: int
    differ: float
    decisions_changed: float | None
    mean_distance: float | None
    noise: float | None
    decision_noise: float | None
    p50_ms: float | None
    p99_ms: float | None
    p50_ms_beside: float | None
    p99_ms_beside: float | None


def compare_shadows(workspace: Workspace, model: str) -> list[ShadowComparison]:
    """Compares the ingested predictions of the model's shadows with those that clients received.

    Returns:
        For each release, each shadow beside each version that answered, in order of time.

    Raises:
        CallError: the model does not exist, or no prediction of a shadow of it was ever ingested.
    """
    check_model(workspace, model)
    pairs = _read_pairs(workspace, model) if workspace.lake.table_exists(TABLE) else None
    if pairs is None or pairs.is_empty():
        raise CallError(
            f"no prediction of a shadow of model {model!r} was ingested",
            remedy=f"headrace release {model} shadow=VERSION",
        )
    parts = pairs.partition_by("release", "arm", "version", "version_beside", maintain_order=True)
    compared = [_compare(workspace, model, part) for part in parts]
    copies = {(row.release, row.beside): row for row in compared if row.is_copy}
    return [
        msgspec.structs.replace(row, noise=copy.differ, decision_noise=copy.decisions_changed)
        if (copy := copies.get((row.release, row.beside))) is not None
        else row
        for row in compared
    ]


def _read_pairs(workspace: Workspace, model: str) -> pl.DataFrame:
    """A row for each prediction of a shadow, with that of the client beside it, in order of time."""
    import polars as pl

    rows = (
        scan_predictions(workspace.lake)
        .filter(pl.col("model") == model, pl.col("error").is_null())
        .select(_COLUMNS)
        .collect()
    )
    answered = rows.filter(~pl.col("shadow")).select("id", "version", "value", "latency_ms", "shared")
    shadows = rows.filter("shadow").sort("at", "id")
    return shadows.join(answered, left_on="shadow_of", right_on="id", suffix="_beside", maintain_order="left")


def _compare(workspace: Workspace, model: str, part: pl.DataFrame) -> ShadowComparison:
    import polars as pl

    first = part.row(0, named=True)
    own, beside = (
        pl.Series([msgspec.json.decode(text) for text in part[name]], strict=False)
        for name in ("value", "value_beside")
    )
    bundle = workspace.registry.bundle(model, first["version"])
    task = msgspec.json.decode((bundle / REPORT).read_bytes(), type=_TrainingRecord).task
    threshold = threshold_of(workspace.whole_project.models.get(model))
    differs, changed = own.ne_missing(beside), None
    if task == "multiclass":
        changed = differs
    elif task == "binary":
        changed = (own >= threshold) != (beside >= threshold)
    return ShadowComparison(
        release=first["release"],
        since=first["at"],
        arm=first["arm"],
        version=first["version"],
        beside=first["version_beside"],
        is_copy=first["version"] == first["version_beside"],
        predictions=len(part),
        differ=_mean(differs),
        decisions_changed=None if changed is None else _mean(changed),
        mean_distance=None if task == "multiclass" else _mean((own - beside).abs()),
        noise=None,
        decision_noise=None,
        p50_ms=_quantile(part, "", 0.5),
        p99_ms=_quantile(part, "", 0.99),
        p50_ms_beside=_quantile(part, "_beside", 0.5),
        p99_ms_beside=_quantile(part, "_beside", 0.99),
    )


def _mean(values: pl.Series) -> float:
    return float(values.cast(float).mean() or 0.0)  # type: ignore[arg-type]


def _quantile(part: pl.DataFrame, side: str, share: float) -> float | None:
    """A quantile of the latencies. That of a shared call is that of several requests."""
    is_shared = part[f"shared{side}"].fill_null(value=False)
    value = part[f"latency_ms{side}"].filter(~is_shared).quantile(share, "linear")
    return None if value is None else float(value)
