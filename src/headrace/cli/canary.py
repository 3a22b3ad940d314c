"""headrace canary"""

from __future__ import annotations

import click

from headrace.cli import show
from headrace.cli.call import Call, command
from headrace.cli.canary_text import describe_canary, show_steps
from headrace.flows.models.canary import review

__all__ = ["canary"]


@command("canary", example="headrace canary purchase")
@click.argument("model")
def canary(call: Call, model: str) -> None:
    """Show how MODEL's canary compares with the champion, and what will be done with it."""
    reviewed = review(call.workspace(), model)
    if call.json:
        show.json(reviewed)
        return
    decision = reviewed.decision
    click.echo(describe_canary(reviewed))
    rows = [
        (
            comparison.metric,
            comparison.what,
            *(
                None if bad is None else f"{bad:.3%}"
                for bad in (comparison.champion_bad, comparison.canary_bad)
            ),
            comparison.champion,
            comparison.canary,
            f"{comparison.greatest:.3g}",
        )
        for comparison in decision.comparisons
    ]
    columns = ["metric", "bad", "champion", "canary", "of champion", "of canary", "evidence"]
    show.table(None, columns, rows)
    show_steps(reviewed)
