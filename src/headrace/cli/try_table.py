"""headrace try"""

from __future__ import annotations

import click

from headrace.cli import show
from headrace.cli.call import Call, command
from headrace.flows.project.try_table import TableTrial, try_table
from headrace.kernel.counts import plural

__all__ = ["try_"]


@command("try", example="headrace try sessions --partition 2026-11-03\nheadrace try sessions --strict")
@click.argument("table")
@click.option("--partition", metavar="NAME", help="The partition to run; default: the last one.")
@click.option("--rows", "limit", type=click.IntRange(1), help="Read only so many rows of each input.")
@click.option(
    "--strict", is_flag=True, help="Run it again, also elsewhere, and find what it reads beside its input."
)
def try_(call: Call, table: str, partition: str | None, limit: int | None, strict: bool) -> int:
    """Run TABLE's function without publishing: show its rows, the audit, and the difference to the table.

    Exit code 1 if the audit refuses the rows, or if --strict finds something.
    """
    trial = try_table(call.workspace(), table, partition=partition, limit=limit, strict=strict)
    if call.json:
        show.json(trial)
    else:
        _print(trial)
    return 1 if trial.refusal or trial.impure else 0


def _print(trial: TableTrial) -> None:
    where = "" if trial.partition is None else f", partition {trial.partition}"
    read = ", ".join(f"{rows:,} of {name}" for name, rows in trial.read.items())
    click.echo(f"{trial.table}{where}: {plural(trial.rows, 'row')} from {read}, in {trial.seconds:.2f} s")
    click.echo(f"columns: {', '.join(f'{name} {dtype}' for name, dtype in trial.columns.items())}")
    if trial.sample:
        rows = [[str(value) for value in row.values()] for row in trial.sample]
        show.table(None, list(trial.columns), rows)
    click.echo(f"audit: {'passed' if trial.refusal is None else trial.refusal}")
    difference = trial.difference
    if difference is not None:
        click.echo(
            f"difference to what is published: {plural(difference.added, 'row')} more,"
            f" {difference.removed:,} fewer"
        )
        for line in (*difference.columns, *difference.examples):
            click.echo(f"  {line}")
    if trial.impure is not None:
        click.echo("strict: the rows depend on the input alone" if not trial.impure else "strict:")
        for line in trial.impure:
            click.echo(f"  {line}")
