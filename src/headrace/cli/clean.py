"""headrace clean"""

from __future__ import annotations

import click

from headrace.cli.call import Call, verb
from headrace.flows.project.clean import clean as take_away
from headrace.flows.project.clean import what
from headrace.kernel.errors import CallError

__all__ = ["clean"]


@verb("clean", example="headrace clean\nheadrace clean --yes")
@click.option("--yes", is_flag=True, help="Do not ask.")
def clean(call: Call, yes: bool) -> None:
    """Take away what the project made on this machine, after asking. Its code and data files stay."""
    settings = call.settings()
    found = what(settings)
    if found.paths and not yes:
        if call.json:
            raise CallError(
                "clean asks before it takes anything away", remedy="With --json, say --yes as well."
            )
        for path in found.paths:
            click.echo(f"  {path}")
        click.confirm(f"Take away these {found.size / 1e6:,.1f} MB?", abort=True)
    gone = take_away(settings)
    if call.json:
        from headrace.cli import show

        show.json(gone)
    else:
        click.echo(f"Took away {gone.size / 1e6:,.1f} MB." if gone.paths else "There is nothing to take away.")
