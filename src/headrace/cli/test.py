"""headrace test"""

from __future__ import annotations

import click

from headrace.cli import show
from headrace.cli.call import Call, command
from headrace.flows.project.record_test import record_test
from headrace.kernel.counts import plural

__all__ = ["test"]


@command("test", example="headrace test --record sessions --partition 2026-11-03\npytest tests")
@click.option("--record", "table", metavar="TABLE", required=True, help="The table to record a test of.")
@click.option("--partition", metavar="NAME", help="The partition whose rows are used; default: the last one.")
@click.option(
    "--rows", "limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Rows of each input."
)
@click.option("--overwrite", is_flag=True, help="Record a test anew that exists and has other content.")
def test(call: Call, table: str, partition: str | None, limit: int, overwrite: bool) -> None:
    """Freeze a few rows of TABLE's input, and the rows that it makes of them, as a test for pytest."""
    recorded = record_test(call.workspace(), table, partition=partition, limit=limit, overwrite=overwrite)
    if call.json:
        show.json(recorded)
        return
    read = ", ".join(f"{rows:,} of {name}" for name, rows in recorded.read.items())
    click.echo(
        f"{recorded.file}: {plural(recorded.rows, 'row')} expected from {read}. Run it: pytest {recorded.file}"
    )
