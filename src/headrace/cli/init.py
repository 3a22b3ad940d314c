"""headrace init"""

from __future__ import annotations

from pathlib import Path

import click

from headrace.cli.call import Call, command
from headrace.flows.project.init import init as make
from headrace.kernel.counts import plural

__all__ = ["init"]


@command("init", example="headrace init shop --example shop")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--example", metavar="NAME", help="Copy an example, such as minimal or shop.")
def init(call: Call, folder: Path, example: str | None) -> None:
    """Make a new project in DIR, empty or as a copy of an example."""
    project = make(folder, example)
    if call.json:
        from headrace.cli import show

        show.json(project)
        return
    click.echo(f"Made {project.folder} ({plural(project.files, 'file')}).")
    click.echo(f"  cd {folder}")
    if example:
        click.echo("Its README.md says what to run. To see what there is: headrace status")
    else:
        click.echo(f"Then say in {project.name}/events.py what an event is, and send a file of events:")
        click.echo("  headrace send TOPIC FILE")
