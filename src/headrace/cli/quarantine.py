"""headrace quarantine list | show | replay | alerts"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from headrace.cli import show as shown
from headrace.cli.call import Call, command, group
from headrace.cli.moment import Moment
from headrace.events.quarantine import QuarantineSelection, RefusalGroup, RefusedEvent, ReplayResult, text_of
from headrace.events.verdicts.judge import FirstPosition
from headrace.flows.events import quarantine as flow
from headrace.kernel.counts import plural
from headrace.kernel.errors import Refused

__all__ = ["quarantine"]

_POSITION = re.compile(r"(\d{1,9}):(\d{1,18})")
_NAMED = 10  # the most events that an error names
_LONGEST = 2_000  # characters of an event that are shown without --whole


class _Position(click.ParamType[FirstPosition]):
    name = "P:O"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> FirstPosition:
        match = _POSITION.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is not a position: write log partition and offset as 0:4711", param, ctx)
        return int(match.group(1)), int(match.group(2))


def _add_selection(function: Callable[..., None]) -> Callable[..., None]:
    """Adds the arguments and options that select events."""
    for decorate in (
        click.option("--until", type=Moment(), help="Only events refused before then."),
        click.option(
            "--since", type=Moment(), help="Only events refused since: 2h (ago), or 2026-03-01T12:00 (UTC)."
        ),
        click.option("--field", help="Only events refused for this field."),
        click.option("--code", help="Only events refused with this code."),
        click.argument("positions", nargs=-1, type=_Position(), metavar="[P:O]..."),
        click.argument("topic"),
    ):
        function = decorate(function)
    return function


@group("quarantine", example="headrace quarantine list")
def quarantine() -> None:
    """Show which events were refused and why, and replay them after a fix of the contract."""


@command("list", example="headrace quarantine list")
@click.argument("topics", nargs=-1, metavar="[TOPIC]...")
def list_groups(call: Call, topics: tuple[str, ...]) -> None:
    """List the refused events that still wait, by reason, with examples.

    `share` is the share of all events of the topic. Each example has its position, which `show`, `replay` and
    `headrace why TOPIC@P:O` accept.
    """
    by_topic = flow.refusal_groups(call.workspace(), topics)
    if call.json:
        shown.json({topic: [_group(group) for group in groups] for topic, groups in by_topic.items()})
        return
    if not any(by_topic.values()):
        click.echo("Nothing was refused.")
    for topic, groups in by_topic.items():
        if groups:
            columns = ["code", "field", "events", "share", "first", "last", "examples"]
            shown.table(topic, columns, map(_row, groups))


@command(
    "show",
    example="headrace quarantine show user_behaviour --code out_of_range --since 2h\n"
    "headrace quarantine show user_behaviour 0:4711",
)
@_add_selection
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="How many, the newest first."
)
@click.option("--whole", is_flag=True, help="Show long events to their end.")
def show(call: Call, topic: str, limit: int, whole: bool, **selection: Any) -> None:
    """Show refused events as they arrived, the newest first.

    P:O is the first log partition and offset of an event. Characters that cannot be printed are shown escaped;
    --json has the exact bytes, as base64 if they are not UTF-8.
    """
    events = flow.find_refused(call.workspace(), topic, QuarantineSelection(limit=limit, **selection))
    if call.json:
        shown.json([_event(event) for event in events])
        return
    for event in events:
        click.echo(f"{event.partition}:{event.offset}  {_moment(event.arrived_at)}  {_reason(event)}")
        click.echo(f"    {shown.readable(event.raw, None if whole else _LONGEST)}")
    if not events:
        click.echo("No waiting event matches." if any(selection.values()) else "Nothing was refused.")


@command("replay", example="headrace quarantine replay user_behaviour --code unknown_value --dry-run")
@_add_selection
@click.option("--limit", type=click.IntRange(1), help="At most so many: those that have waited longest.")
@click.option("--dry-run", is_flag=True, help="Only show what would be replayed.")
def replay(call: Call, topic: str, limit: int | None, dry_run: bool, **selection: Any) -> None:
    """Append refused events to the log again, in one transaction, for ingest to judge.

    However often an event is replayed, it is admitted once.
    """
    done = flow.replay(call.workspace(), topic, QuarantineSelection(limit=limit, **selection), dry_run=dry_run)
    if call.json:
        shown.json({"topic": topic, "replayed": 0 if dry_run else done.events, "chosen": done})
    else:
        _print_replay(done, dry_run=dry_run, narrowed=any(selection.values()))
    if done.too_large:
        raise Refused(
            f"{plural(len(done.too_large), 'event', 'stays', 'stay')} in quarantine: larger than the topic"
            " accepts now",
            where=f"topic {topic}: {', '.join(f'{p}:{o}' for p, o in done.too_large[:_NAMED])}",
            remedy="Raise the topic's max.message.bytes, then replay them.",
        )


def _print_replay(done: ReplayResult, *, dry_run: bool, narrowed: bool) -> None:
    if not done.events and not done.too_large:
        click.echo("No waiting event matches." if narrowed else "Nothing was refused.")
        return
    shown.table(None, ["code", "field", "events"], done.reasons)
    what = f"{plural(done.events, 'event')} ({done.size:,} bytes)"
    if dry_run:
        click.echo(f"{what} would be replayed.")
    else:
        click.echo(f"Replayed {what}; headrace ingest judges them again.")


@command("alerts", example="headrace quarantine alerts")
def alerts(call: Call) -> None:
    """List the open alerts: reasons for which too many events are refused.

    Each change of an alert is an event on topic headrace.alerts, and a row of table headrace_alerts.
    """
    open_alerts = flow.open_alerts(call.workspace())
    if call.json:
        shown.json(open_alerts)
        return
    if not open_alerts:
        click.echo("No alert is open.")
        return
    rows = [
        (alert.severity, alert.subject, alert.reason, _moment(alert.at), alert.why) for alert in open_alerts
    ]
    shown.table(None, ["severity", "subject", "reason", "since", "why"], rows)


def _row(group: RefusalGroup) -> tuple[object, ...]:
    examples = "\n".join(
        f"{event.partition}:{event.offset}  {shown.readable(event.reason, 60)}\n"
        f"  {shown.readable(event.raw, 60)}"
        for event in group.examples
    )
    return (
        group.code,
        group.field,
        group.count,
        f"{group.share:.2%}",
        _moment(group.first),
        _moment(group.last),
        examples,
    )


def _reason(event: RefusedEvent) -> str:
    return shown.readable(f"{event.code}{f' {event.field}' if event.field else ''}: {event.reason}")


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def _group(group: RefusalGroup) -> dict[str, object]:
    return {**_fields(group), "examples": [_event(example) for example in group.examples]}


def _event(event: RefusedEvent) -> dict[str, object]:
    text, encoding = text_of(event.raw)
    return {**_fields(event), "raw": text, "raw_encoding": encoding}


def _fields(record: RefusalGroup | RefusedEvent) -> dict[str, object]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


for subcommand in (list_groups, show, replay, alerts):
    quarantine.add_command(subcommand)
