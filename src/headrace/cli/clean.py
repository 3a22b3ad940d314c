"""headrace clean"""

from __future__ import annotations

import click

from headrace.cli import show
from headrace.cli.call import Call, command, confirm
from headrace.flows.project.clean import clean as delete
from headrace.flows.project.clean import find_leftovers

__all__ = ["clean"]


@command("clean", example="headrace clean\nheadrace clean --yes")
@click.option("--yes", is_flag=True, help="Do not ask.")
def clean(call: Call, yes: bool) -> None:
    """Delete what the project made on this machine, after asking. Code and data files are kept."""
    settings = call.settings()
    leftovers = find_leftovers(settings)
    if leftovers.paths and not yes:
        for path in leftovers.paths:
            show.line(call, f"  {path}")
        confirm(call, f"Delete these {leftovers.size / 1e6:,.1f} MB?")
    deleted = delete(settings)
    if call.json:
        show.json(deleted)
    else:
        click.echo(f"Deleted {deleted.size / 1e6:,.1f} MB." if deleted.paths else "There is nothing to delete.")
