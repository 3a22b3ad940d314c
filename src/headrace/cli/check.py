"""headrace check parity"""

from __future__ import annotations

import click

from headrace.cli import show
from headrace.cli.call import Call, verb
from headrace.flows.parity import parity as check_parity

__all__ = ["check"]


@click.group("check", context_settings={"help_option_names": ["-h", "--help"]})
def check() -> None:
    """Prove that what was served is what training would have seen."""


@verb("parity", example="headrace check parity purchase")
@click.argument("model", required=False)
@click.option("--limit", type=click.IntRange(1), default=1_000, show_default=True, help="How many predictions.")
def parity(call: Call, model: str | None, limit: int) -> int:
    """Make the features of logged predictions again, at their moments and positions, and compare.

    Exit code 1 where any value differs.
    """
    found = check_parity(call.settings(), model, limit=limit)
    if call.json:
        show.json(found)
    else:
        rows = [
            (name, one.checked, one.equal, len(one.differing), sum(one.not_checkable.values()))
            for name, one in found.items()
        ]
        show.table(None, ["version", "checked", "equal", "values that differ", "not checkable"], rows)
        for name, one in found.items():
            for other in one.differing[:10]:
                click.echo(
                    f"  {name} {other.id} {other.column}: served {other.served}, made again {other.recomputed}"
                )
            for reason, count in one.not_checkable.items():
                click.echo(f"  {name}: {count:,} not checkable: {reason}")
    return 1 if any(one.differing for one in found.values()) else 0


check.add_command(parity)
