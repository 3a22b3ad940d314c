"""headrace quarantine list | show | replay"""

from __future__ import annotations

import click

from headrace.cli import show as shown
from headrace.cli.call import Call, verb
from headrace.flows import quarantine as flow

__all__ = ["quarantine"]


@click.group("quarantine", context_settings={"help_option_names": ["-h", "--help"]})
def quarantine() -> None:
    """See what was refused and why, and try it again after a contract's fix."""


@verb("list", example="headrace quarantine list")
@click.argument("topics", nargs=-1, metavar="[TOPIC]...")
def list_groups(call: Call, topics: tuple[str, ...]) -> None:
    """What was refused, by reason, with an example of each."""
    found = flow.groups(call.settings(), topics)
    if call.json:
        shown.json(found)
        return
    if not any(found.values()):
        click.echo("Nothing was refused.")
        return
    for topic, groups in found.items():
        rows = [(one.code, one.field, one.count, one.reason, one.example[:60]) for one in groups]
        if rows:
            shown.table(topic, ["code", "field", "events", "reason", "example"], rows)


@verb("show", example="headrace quarantine show user_behaviour --code out_of_range")
@click.argument("topic")
@click.option("--code", help="Only those refused for this.")
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="How many, the newest first."
)
def show(call: Call, topic: str, code: str | None, limit: int) -> None:
    """Refused events as they came, the newest first."""
    found = flow.waiting(call.settings(), topic, code=code, limit=limit)
    if call.json:
        shown.json([{**_without_raw(one), "raw": one.raw.decode(errors="replace")} for one in found])
        return
    for one in found:
        field = f" {one.field}" if one.field else ""
        click.echo(
            f"{one.partition}:{one.offset}  {one.arrived_at:%Y-%m-%d %H:%M:%S}  {one.code}{field}: {one.reason}"
        )
        click.echo(f"    {one.raw.decode(errors='replace')}")
    if not found:
        click.echo("Nothing was refused.")


@verb("replay", example="headrace quarantine replay user_behaviour --code unknown_value")
@click.argument("topic")
@click.option("--code", help="Only those refused for this.")
@click.option("--field", help="Only those refused for this field.")
@click.option("--limit", type=click.IntRange(1), help="At most so many, the oldest first.")
def replay(call: Call, topic: str, code: str | None, field: str | None, limit: int | None) -> None:
    """Put refused events on the log once more, for ingest to judge anew."""
    count = flow.replay(call.settings(), topic, code=code, field=field, limit=limit)
    if call.json:
        shown.json({"topic": topic, "replayed": count})
    else:
        click.echo(f"Replayed {count:,} events; headrace ingest judges them anew.")


def _without_raw(one: object) -> dict[str, object]:
    return {
        name: getattr(one, name) for name in ("partition", "offset", "arrived_at", "code", "field", "reason")
    }


for command in (list_groups, show, replay):
    quarantine.add_command(command)
