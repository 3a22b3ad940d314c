"""headrace run-stage: what dvc.yaml calls, one process a stage; `headrace build` is faster."""

from __future__ import annotations

import click

from headrace.cli.call import Call, verb
from headrace.flows.build import run_stage as run_one

__all__ = ["run_stage"]


@verb("run-stage", example="dvc repro", hidden=True)
@click.argument("name")
def run_stage(call: Call, name: str) -> None:
    """Do the work of one stage of dvc.yaml. DVC calls this; it decides what is stale, and records it."""
    click.echo(f"{name}: {run_one(call.workspace(), name)}")
