"""headrace check parity|contracts"""

from __future__ import annotations

import click
import msgspec

from headrace.cli import show
from headrace.cli.call import Call, group, verb
from headrace.flows.events.contracts import Checked
from headrace.flows.events.contracts import contracts as check_contracts
from headrace.flows.trace.parity import parity as check_parity

__all__ = ["check"]


@group("check", example="headrace check parity")
def check() -> None:
    """Prove that what was served is what training would have seen, and that contracts still fit."""


@verb("parity", example="headrace check parity purchase")
@click.argument("model", required=False)
@click.option("--limit", type=click.IntRange(1), default=1_000, show_default=True, help="How many predictions.")
def parity(call: Call, model: str | None, limit: int) -> int:
    """Make the features of logged predictions again, at their moments and positions, and compare.

    Exit code 1 where any value differs. Values that an edited rowwise function made are not compared: they are
    counted as "code changed".
    """
    found = check_parity(call.settings(), model, limit=limit)
    if call.json:
        show.json(found)
    else:
        rows = [
            (
                *(name, one.checked, one.equal, len(one.differing)),
                *(one.code_changed, sum(one.not_checkable.values())),
            )
            for name, one in found.items()
        ]
        headings = ["version", "checked", "equal", "values that differ", "code changed", "not checkable"]
        show.table(None, headings, rows)
        for name, one in found.items():
            for other in one.differing[:10]:
                click.echo(
                    f"  {name} {other.id} {other.column}: served {other.served}, made again {other.recomputed}"
                )
            for reason, count in one.not_checkable.items():
                click.echo(f"  {name}: {count:,} not checkable: {reason}")
            if one.code_changed:
                click.echo(
                    f"  {name}: a rowwise function was edited since this version was trained; what it made for"
                    f" {one.code_changed:,} predictions is not compared"
                )
    return 1 if any(one.differing for one in found.values()) else 0


@verb("contracts", example="headrace check contracts\nheadrace check contracts user_behaviour --json")
@click.argument("topics", nargs=-1, metavar="[TOPIC]...")
def contracts(call: Call, topics: tuple[str, ...]) -> int:
    """Compare the contracts with what their tables last had: what has changed, and for whom.

    Ingest takes compatible changes by itself. A change that tightens (events that were good are refused)
    or breaks (a reader loses a field) needs a higher version in the declaration; one that the table
    cannot store needs a new name. Exit code 1 where ingest would not start, or a reader of this project
    names what is gone.
    """
    found = check_contracts(call.settings(), topics)
    if call.json:
        show.json([{**msgspec.to_builtins(one), "breaks": one.breaks} for one in found])
        return 1 if any(one.breaks for one in found) else 0
    rows = [(one.topic, _version(one), one.fingerprint, _MEANS[one.outcome]) for one in found]
    show.table(None, ["topic", "version", "fingerprint", "what it is"], rows)
    for one in found:
        if one.changes:
            click.echo(f"\n{one.topic}")
        for told in one.changes:
            click.echo(f"  {told.change.level:16}  {told.change.field or 'the contract'}: {told.change.text}")
            if told.producers:
                click.echo(f"{'':20}for: producers of {one.topic}")
            for reader in told.readers:
                by = f" (by {reader.through})" if reader.through else ""
                click.echo(f"{'':20}for: {reader.kind} {reader.name}{by}")
        if one.remedy:
            click.echo(f"  {one.remedy}")
    return 1 if any(one.breaks for one in found) else 0


_MEANS = {
    "new": "no table has seen it",
    "unchanged": "as the table has it",
    "compatible": "compatible: ingest takes it by itself",
    "meant": "its higher version says that it is meant",
    "refused": "ingest will not start",
}


def _version(one: Checked) -> str:
    return str(one.version) if one.was in (None, one.version) else f"{one.was} → {one.version}"


check.add_command(parity)
check.add_command(contracts)
