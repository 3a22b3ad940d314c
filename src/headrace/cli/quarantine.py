"""headrace quarantine list | show | replay | alerts"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from headrace.cli import show as shown
from headrace.cli.call import Call, group, verb
from headrace.events.quarantine import QuarantineSelection, RefusalGroup, RefusedEvent, ReplayResult, text_of
from headrace.events.verdicts.judge import FirstPosition
from headrace.flows.events import quarantine as flow
from headrace.kernel.errors import Refused
from headrace.kernel.time import now, parse_duration

__all__ = ["quarantine"]

_POSITION = re.compile(r"(\d{1,9}):(\d{1,18})")
_NAMED = 10  # events that are too large to be replayed are named, at most
_LONGEST = 2_000  # characters of an event that are shown, unless the whole is asked for


class _Position(click.ParamType[FirstPosition]):
    name = "P:O"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> FirstPosition:
        match = _POSITION.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is not a position: write log partition and offset as 0:4711", param, ctx)
        return int(match.group(1)), int(match.group(2))


class _Moment(click.ParamType[datetime]):
    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            return now() - parse_duration(value)
        except ValueError:
            pass
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a moment: write 2h for two hours ago, or 2026-03-01T12:00", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _choosing(command: Callable[..., None]) -> Callable[..., None]:
    """The arguments and options by which events are chosen."""
    for decorate in (
        click.option("--until", type=_Moment(), help="Refused before then."),
        click.option("--since", type=_Moment(), help="Refused since: 2h (ago), or 2026-03-01T12:00 (UTC)."),
        click.option("--field", help="Refused for this field."),
        click.option("--code", help="Refused for this."),
        click.argument("positions", nargs=-1, type=_Position(), metavar="[P:O]..."),
        click.argument("topic"),
    ):
        command = decorate(command)
    return command


@group("quarantine", example="headrace quarantine list")
def quarantine() -> None:
    """See what was refused and why, and try it again after a contract's fix."""


@verb("list", example="headrace quarantine list")
@click.argument("topics", nargs=-1, metavar="[TOPIC]...")
def list_groups(call: Call, topics: tuple[str, ...]) -> None:
    """What was refused and still waits, by reason, with examples.

    `share` is of all events of the topic. An example stands with the position that `show`, `replay` and
    `headrace why TOPIC@P:O` take.
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


@verb(
    "show",
    example="headrace quarantine show user_behaviour --code out_of_range --since 2h\n"
    "headrace quarantine show user_behaviour 0:4711",
)
@_choosing
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="How many, the newest first."
)
@click.option("--whole", is_flag=True, help="Show long events to their end.")
def show(call: Call, topic: str, limit: int, whole: bool, **chosen: Any) -> None:
    """Refused events as they came, the newest first.

    P:O is where an event first stood: log partition and offset. What is not printable is shown escaped;
    --json has the exact bytes, as base64 where they are not UTF-8.
    """
    events = flow.find_refused(call.workspace(), topic, QuarantineSelection(limit=limit, **chosen))
    if call.json:
        shown.json([_event(event) for event in events])
        return
    for event in events:
        click.echo(f"{event.partition}:{event.offset}  {_moment(event.arrived_at)}  {_reason(event)}")
        click.echo(f"    {shown.readable(event.raw, None if whole else _LONGEST)}")
    if not events:
        click.echo("No waiting event matches." if any(chosen.values()) else "Nothing was refused.")


@verb("replay", example="headrace quarantine replay user_behaviour --code unknown_value --dry-run")
@_choosing
@click.option("--limit", type=click.IntRange(1), help="At most so many, those that have waited longest.")
@click.option("--dry-run", is_flag=True, help="Say what would be replayed, and change nothing.")
def replay(call: Call, topic: str, limit: int | None, dry_run: bool, **chosen: Any) -> None:
    """Put refused events on the log once more, in one transaction, for ingest to judge anew.

    However often an event is replayed, it is admitted once.
    """
    done = flow.replay(call.workspace(), topic, QuarantineSelection(limit=limit, **chosen), dry_run=dry_run)
    if call.json:
        shown.json({"topic": topic, "replayed": 0 if dry_run else done.events, "chosen": done})
    else:
        _print_replay(done, dry_run=dry_run, narrowed=any(chosen.values()))
    if done.too_large:
        raise Refused(
            f"{len(done.too_large):,} of the chosen events are larger than the topic takes now; they wait on",
            where=f"topic {topic}: {', '.join(f'{p}:{o}' for p, o in done.too_large[:_NAMED])}",
            remedy="Raise the topic's max.message.bytes, then replay them.",
        )


def _print_replay(done: ReplayResult, *, dry_run: bool, narrowed: bool) -> None:
    if not done.events and not done.too_large:
        click.echo("No waiting event matches." if narrowed else "Nothing was refused.")
        return
    shown.table(None, ["code", "field", "events"], done.reasons)
    what = f"{done.events:,} events ({done.size:,} bytes)"
    if dry_run:
        click.echo(f"{what} would be replayed.")
    else:
        click.echo(f"Replayed {what}; headrace ingest judges them anew.")


@verb("alerts", example="headrace quarantine alerts")
def alerts(call: Call) -> None:
    """The alerts that are open: what is refused at too high a rate now.

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
        f"{e.partition}:{e.offset}  {shown.readable(e.reason, 60)}\n  {shown.readable(e.raw, 60)}"
        for e in group.examples
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


for command in (list_groups, show, replay, alerts):
    quarantine.add_command(command)
