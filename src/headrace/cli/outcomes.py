"""headrace outcomes"""

from __future__ import annotations

import click

from headrace.cli import show
from headrace.cli.call import Call, command
from headrace.flows.models.outcomes import outcomes as compare

__all__ = ["outcomes"]


@command("outcomes", example="headrace outcomes churn")
@click.argument("model")
def outcomes(call: Call, model: str) -> None:
    """Compare MODEL's predictions with what really happened, for each arm of each release."""
    report = compare(call.workspace(), model)
    if call.json:
        show.json(report.arms)
        return
    names = list(dict.fromkeys(name for arm in report.arms for name in arm.metrics))
    rows = [
        (
            f"{arm.since:%F %T}",
            arm.arm,
            arm.version,
            arm.predictions,
            arm.known,
            *(f"{arm.metrics[name]:.4f}" if name in arm.metrics else None for name in names),
        )
        for arm in report.arms
    ]
    show.table(None, ["since (UTC)", "arm", "version", "predictions", "with outcome", *names], rows)
