"""headrace run-stage, the command in dvc.yaml: one process per stage. `headrace build` is faster."""

from __future__ import annotations

import click

from headrace.cli.call import Call, command
from headrace.flows.build import run_stage as run_one

__all__ = ["run_stage"]


@command("run-stage", example="dvc repro", hidden=True)
@click.argument("name")
def run_stage(call: Call, name: str) -> None:
    """Run one stage of dvc.yaml. DVC calls this; it decides what is stale, and records the result."""
    click.echo(f"{name}: {run_one(call.workspace(), name)}")
