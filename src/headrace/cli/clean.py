"""headrace clean"""

from __future__ import annotations

import click

from headrace.cli.call import Call, command
from headrace.flows.project.clean import clean as delete
from headrace.flows.project.clean import find_leftovers
from headrace.kernel.errors import CallError

__all__ = ["clean"]


@command("clean", example="headrace clean\nheadrace clean --yes")
@click.option("--yes", is_flag=True, help="Do not ask.")
def clean(call: Call, yes: bool) -> None:
    """Delete what the project made on this machine, after asking. Code and data files are kept."""
    settings = call.settings()
    leftovers = find_leftovers(settings)
    if leftovers.paths and not yes:
        if call.json:
            raise CallError("clean asks before it deletes anything", remedy="With --json, use --yes as well.")
        for path in leftovers.paths:
            click.echo(f"  {path}")
        click.confirm(f"Delete these {leftovers.size / 1e6:,.1f} MB?", abort=True)
    deleted = delete(settings)
    if call.json:
        from headrace.cli import show

        show.json(deleted)
    else:
        click.echo(f"Deleted {deleted.size / 1e6:,.1f} MB." if deleted.paths else "There is nothing to delete.")
