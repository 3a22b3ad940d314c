"""headrace deploy"""

from __future__ import annotations

from pathlib import Path

import click

from headrace.cli import show
from headrace.cli.call import Call, command
from headrace.flows.models.deploy import DeployReport, roll_back_models
from headrace.flows.models.deploy import deploy as put_in_force
from headrace.kernel.errors import CallError

__all__ = ["deploy"]

_COLOURS = {"new": "green", "changed": "yellow", "removed": "red", "refused": "red"}


@command(
    "deploy",
    example="headrace deploy models.yaml --dry-run\nheadrace deploy models.yaml\nheadrace deploy --rollback",
)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Print what would be done.")
@click.option("--prune", is_flag=True, help="Remove the models that FILE does not select.")
@click.option("--rollback", is_flag=True, help="Put the previous set of models in force again.")
def deploy(call: Call, file: Path | None, dry_run: bool, prune: bool, rollback: bool) -> int:
    """Serve the MLflow models that FILE selects, each by a process of the Python that it needs.

    A model that cannot be served is refused alone. Exit code 1 if one was refused or did not start.
    """
    if rollback == (file is not None) or (rollback and (dry_run or prune)):
        raise CallError("name either a file, or --rollback alone", remedy="See headrace deploy --help.")
    workspace = call.workspace()
    if file is None:
        report = roll_back_models(workspace)
    else:
        report = put_in_force(workspace, file, dry_run=dry_run, prune=prune)
    if call.json:
        show.json(report)
    else:
        _print(report)
    return 0 if report.is_complete else 1


def _print(report: DeployReport) -> None:
    rows = [
        (model.action, model.name, model.version, model.python or "", model.what) for model in report.models
    ]
    show.table(None, ["", "model", "version", "python", ""], rows)
    for name, why in report.unstarted.items():
        click.echo(f"\n{name} has not started: {why}")
    if report.is_dry_run:
        click.echo("\nNothing was done.")
    elif not report.is_recorded:
        click.echo("\nNothing changed.")
    elif report.is_running:
        click.echo(f"\nSet {report.set} is in force.")
    else:
        click.echo(f"\nSet {report.set} is in force; headrace up serves it.")
