"""headrace up"""

from __future__ import annotations

import click

from headrace.cli import show
from headrace.cli.call import Call, command
from headrace.projects.running import Up
from headrace.runtime.up import up as run_up

__all__ = ["up"]


@command("up", example="headrace up")
def up(call: Call) -> None:
    """Answer predictions, collect events, ingest them and run the schedules, until Ctrl-C."""

    def ready(state: Up) -> None:
        if call.json:
            show.json(state)
            return
        click.echo(f"predict    {state.predict}")
        click.echo(f"collector  {state.collector}")
        click.echo(f"console    {state.console}")
        click.echo("Stop it with Ctrl-C.")

    settings = call.settings()
    if not call.json:
        name = f"{settings.project} on profile {settings.profile_name}"
        click.echo(f"Starting {name}: endpoint, collector, ingest and console ...", err=True)
    run_up(settings, ready, report=lambda text: click.echo(text, err=True))
    if not call.json:
        click.echo("Stopped; no process is left running.")
