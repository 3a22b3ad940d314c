"""headrace up"""

from __future__ import annotations

import click

from headrace.cli import show
from headrace.cli.call import Call, command
from headrace.kernel.errors import CallError
from headrace.kernel.time import parse_duration
from headrace.projects.running import Up
from headrace.runtime.up import up as run_up

__all__ = ["up"]


@command("up", example="headrace up --build-every 1h")
@click.option("--build-every", metavar="TIME", help="Also run headrace build this often, such as 1h.")
def up(call: Call, build_every: str | None) -> None:
    """Answer predictions, collect events and ingest them, until Ctrl-C."""
    try:
        every = None if build_every is None else parse_duration(build_every)
    except ValueError as error:
        raise CallError(str(error), where="--build-every") from error

    def ready(state: Up) -> None:
        if call.json:
            show.json(state)
            return
        click.echo(f"predict    {state.predict}")
        click.echo(f"collector  {state.collector}")
        click.echo(f"console    {state.console}")
        click.echo("Stop it with Ctrl-C.")

    run_up(call.settings(), ready, build_every=every, report=lambda text: click.echo(text, err=True))
    if not call.json:
        click.echo("Stopped; no process is left running.")
