"""headrace shadows"""

from __future__ import annotations

import click

from headrace.cli import show
from headrace.cli.call import Call, command
from headrace.flows.models.shadows import compare_shadows

__all__ = ["shadows"]

_COLUMNS = (
    "since (UTC)",
    "shadow",
    "version",
    "beside",
    "predictions",
    "differ",
    "noise",
    "decisions changed",
    "noise of decisions",
    "mean distance",
    "p50 ms",
    "beside",
    "p99 ms",
    "beside",
)


@command("shadows", example="headrace shadows churn")
@click.argument("model")
def shadows(call: Call, model: str) -> None:
    """Compare the predictions of MODEL's shadows with those that clients received."""
    compared = compare_shadows(call.workspace(), model)
    if call.json:
        show.json(compared)
        return
    rows = [
        (
            f"{row.since:%F %T}",
            row.arm,
            row.version,
            row.beside,
            row.predictions,
            *map(_percent, (row.differ, row.noise, row.decisions_changed, row.decision_noise)),
            None if row.mean_distance is None else f"{row.mean_distance:.3g}",
            *map(_milliseconds, (row.p50_ms, row.p50_ms_beside, row.p99_ms, row.p99_ms_beside)),
        )
        for row in compared
    ]
    show.table(None, _COLUMNS, rows)


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.2%}"


def _milliseconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}"
