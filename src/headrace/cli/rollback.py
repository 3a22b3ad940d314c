"""headrace rollback"""

from __future__ import annotations

import click

from headrace.cli.call import Call, command
from headrace.cli.release_text import print_release
from headrace.flows.models.release import rollback as go_back

__all__ = ["rollback"]


@command("rollback", example='headrace rollback purchase --why "too many refusals"')
@click.argument("model")
@click.option("--why", default="", metavar="TEXT", help="The reason, kept with the release.")
def rollback(call: Call, model: str, why: str) -> None:
    """Put MODEL's previous release in force again."""
    print_release(call, go_back(call.workspace(), model, why=why))
