"""headrace status"""

from __future__ import annotations

from datetime import timedelta

import click

from headrace.cli import show
from headrace.cli.call import Call, verb
from headrace.flows.project.status import Status
from headrace.flows.project.status import status as status_of

__all__ = ["status"]


@verb("status", example="headrace status")
def status(call: Call) -> None:
    """Say what is stale and why, what runs now, and how fresh everything is."""
    found = status_of(call.settings())
    if call.json:
        show.json(found)
    else:
        _print(found)


def _print(found: Status) -> None:
    click.echo(f"{found.project} on profile {found.profile}: {_running(found)}\n")
    if found.blocked:
        click.echo(f"Not to be built yet: {found.blocked}\n")
    elif found.stale:
        rows = [(one.stage, "; ".join(f"{kind}: {what}" for kind, what in one.reasons)) for one in found.stale]
        show.table("Stale", ["stage", "why"], rows)
        click.echo("  headrace build brings them up to date.\n")
    else:
        click.echo("Everything is up to date.\n")
    for model, due in found.held.items():
        click.echo(f"Model {model} takes newer inputs from {due:%Y-%m-%d %H:%M} UTC on (its refresh).\n")
    for moved in found.moved:
        stands = "is gone" if moved.current is None else f"was moved to version {moved.current}"
        says = "has no such arm" if moved.released is None else f"says version {moved.released}"
        share = ":0.1" if moved.alias == "challenger" else ""
        click.echo(
            f"Alias {moved.alias} of {moved.model} {stands} by hand; the release in force {says}."
            f"\n  To release what it stands for: headrace release {moved.model}"
            f" {moved.alias}={moved.current or moved.released}{share}\n"
        )
    if found.silent:
        click.echo(
            f"{found.silent}.\n  See what `headrace up` prints; start it again if it does not recover.\n"
        )
    for model, failure in found.failed.items():
        click.echo(
            f"Release {failure.release} of {model} could not be activated; the one before it stays in force.\n"
            f"  {failure.why}\n  To go back: headrace rollback {model}\n"
        )
    for other in found.released:
        click.echo(
            f"Version {other.champion} of {other.model} answers; the last build of this commit released version"
            f" {other.built}.\n  To put that in force: headrace release {other.model} champion={other.built}\n"
        )
    _print_lineage(found)
    if found.oversized:
        click.echo(
            f"Predictions: {found.oversized:,} are larger than their topic takes; see headrace doctor.\n"
        )
    topics = [(one.topic, one.events, one.lag) for one in found.topics]
    if topics:
        show.table("Topics", ["topic", "events", "not ingested"], topics)
        for one in found.topics:
            if one.contract:
                click.echo(f"  {one.topic}: {one.contract}")
            if one.extra:
                counts = ", ".join(f"{name} {count:,}" for name, count in one.extra.items())
                click.echo(f"  {one.topic}: fields that the contract does not name are in _extra: {counts}")
        click.echo()
    alerts = [(alert.severity, alert.subject, alert.reason, alert.why) for alert in found.alerts]
    if alerts:
        show.table("Open alerts", ["severity", "subject", "reason", "why"], alerts)
        click.echo("  headrace quarantine list and show have the events.\n")
    tables = [(one.table, one.rows, _age(one.age)) for one in found.tables]
    if tables:
        show.table("Tables", ["table", "rows", "made"], tables)
    if found.undeclared:
        click.echo(f"\nTables that nothing declares any more: {', '.join(found.undeclared)}")
        click.echo(f"  headrace drop-table {found.undeclared[0]} takes one away.")


def _print_lineage(found: Status) -> None:
    if found.lineage is None:
        return
    if found.lineage.dropped:
        click.echo(f"Lineage: {found.lineage.dropped:,} events were dropped: {found.lineage.reason}\n")
    for one in found.lineage.endpoints:
        if one.failure or one.refused:
            refused = f", {one.refused:,} refused" if one.refused else ""
            why = f": {one.failure}" if one.failure else ""
            click.echo(f"Lineage to {one.url}: {one.waiting:,} events wait{refused}{why}\n")


def _running(found: Status) -> str:
    parts = []
    if found.up is not None:
        parts.append(f"up (process {found.up.pid}): predict {found.up.predict}, collector {found.up.collector}")
    if found.building is not None:
        parts.append(f"a build runs (process {found.building})")
    return "; ".join(parts) or "nothing runs"


def _age(age: timedelta | None) -> str:
    if age is None:
        return "never"
    minutes = int(age.total_seconds() // 60)
    if minutes < 1:
        return "just now"
    hours, days = minutes // 60, minutes // 1440
    return f"{days} d ago" if days > 1 else f"{hours} h ago" if hours > 1 else f"{minutes} min ago"
