"""headrace tag-table, untag-table, table-versions"""

from __future__ import annotations

from datetime import UTC, datetime

import click

from headrace.cli import show
from headrace.cli.call import Call, command
from headrace.flows.project import table_tags as tags
from headrace.kernel.counts import plural

__all__ = ["table_versions", "tag_table", "untag_table"]


@command(
    "tag-table",
    example="headrace tag-table customers v1\nheadrace tag-table customers v1 --at 2026-04-03T10:00Z",
)
@click.argument("table")
@click.argument("tag")
@click.option(
    "--at", metavar="ID|TAG|TIME", help="A snapshot's id, a tag, or a moment; default: the current one."
)
def tag_table(call: Call, table: str, tag: str, at: str | None) -> None:
    """Give a snapshot of TABLE the name TAG. It then does not expire."""
    snapshot = tags.tag_table(call.workspace(), table, tag, None if at is None else _parse(at))
    if call.json:
        show.json({"table": table, "tag": tag, "snapshot": snapshot.id})
    else:
        click.echo(
            f"{tag} names snapshot {snapshot.id} of {table}:"
            f" {plural(snapshot.rows, 'row')} of {snapshot.at:%F %T} UTC."
        )


@command("untag-table", example="headrace untag-table customers v1")
@click.argument("table")
@click.argument("tag")
def untag_table(call: Call, table: str, tag: str) -> None:
    """Remove the name TAG from a snapshot of TABLE. The snapshot may then expire."""
    tags.untag_table(call.workspace(), table, tag)
    if call.json:
        show.json({"table": table, "removed": tag})
    else:
        click.echo(f"Removed tag {tag} from {table}.")


@command("table-versions", example="headrace table-versions customers")
@click.argument("table")
def table_versions(call: Call, table: str) -> None:
    """List the snapshots of TABLE that can be read, with their tags, and which one readers see."""
    versions = tags.list_versions(call.workspace(), table)
    if call.json:
        show.json(versions)
        return
    rows = [
        (str(v.snapshot), f"{v.at:%F %T}", v.rows, "readers" if v.visible else "", ", ".join(v.tags))
        for v in versions
    ]
    show.table(None, ["snapshot", "committed (UTC)", "rows", "seen by", "tags"], rows)


def _parse(at: str) -> int | str | datetime:
    """A snapshot's id, a moment (UTC if it has no time zone), or a tag."""
    if at.isdecimal():
        return int(at)
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        return at
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
