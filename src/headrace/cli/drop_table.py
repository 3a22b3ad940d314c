"""headrace drop-table"""

from __future__ import annotations

import click

from headrace.cli import show
from headrace.cli.call import Call, command, confirm
from headrace.flows.events.drop_table import check_droppable
from headrace.flows.events.drop_table import drop_table as drop

__all__ = ["drop_table"]


@command("drop-table", example="headrace drop-table old_facts\nheadrace drop-table old_facts --yes")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop_table(call: Call, name: str, yes: bool) -> None:
    """Delete a table that a build made: its rows and snapshots, its pointer, and its record in dvc.lock."""
    workspace = call.workspace()
    if not yes:
        check_droppable(workspace, name)
        confirm(call, f"Drop table {name} with all its snapshots?")
    drop(workspace, name)
    if call.json:
        show.json({"dropped": name})
    else:
        click.echo(f"Dropped {name}.")
