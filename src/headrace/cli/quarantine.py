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
        found = _POSITION.fullmatch(value)
        if found is None:
            self.fail(f"{value!r} is no position: write log partition and offset as 0:4711", param, ctx)
        return int(found.group(1)), int(found.group(2))


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
            self.fail(f"{value!r} is no moment: write 2h for two hours ago, or 2026-03-01T12:00", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _choosing(command: Callable[..., None]) -> Callable[..., None]:
    """The arguments and options by which events are chosen."""
    for one in (
        click.option("--until", type=_Moment(), help="Refused before then."),
        click.option("--since", type=_Moment(), help="Refused since: 2h (ago), or 2026-03-01T12:00 (UTC)."),
        click.option("--field", help="Refused for this field."),
        click.option("--code", help="Refused for this."),
        click.argument("positions", nargs=-1, type=_Position(), metavar="[P:O]..."),
        click.argument("topic"),
    ):
        command = one(command)
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
    found = flow.refusal_groups(call.settings(), topics)
    if call.json:
        shown.json({topic: [_group(one) for one in groups] for topic, groups in found.items()})
        return
    if not any(found.values()):
        click.echo("Nothing was refused.")
    for topic, groups in found.items():
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
    --json has the exact bytes, as base64 where they are no UTF-8.
    """
    found = flow.find_refused(call.settings(), topic, QuarantineSelection(limit=limit, **chosen))
    if call.json:
        shown.json([_event(one) for one in found])
        return
    for one in found:
        click.echo(f"{one.partition}:{one.offset}  {_moment(one.arrived_at)}  {_reason(one)}")
        click.echo(f"    {shown.readable(one.raw, None if whole else _LONGEST)}")
    if not found:
        click.echo("Nothing that waits is of these." if any(chosen.values()) else "Nothing was refused.")


@verb("replay", example="headrace quarantine replay user_behaviour --code unknown_value --dry-run")
@_choosing
@click.option("--limit", type=click.IntRange(1), help="At most so many, those that have waited longest.")
@click.option("--dry-run", is_flag=True, help="Say what would be replayed, and change nothing.")
def replay(call: Call, topic: str, limit: int | None, dry_run: bool, **chosen: Any) -> None:
    """Put refused events on the log once more, in one transaction, for ingest to judge anew.

    However often an event is replayed, it is admitted once.
    """
    done = flow.replay(call.settings(), topic, QuarantineSelection(limit=limit, **chosen), dry_run=dry_run)
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
        click.echo("Nothing that waits is of these." if narrowed else "Nothing was refused.")
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
    found = flow.open_alerts(call.settings())
    if call.json:
        shown.json(found)
        return
    if not found:
        click.echo("No alert is open.")
        return
    rows = [(one.severity, one.subject, one.reason, _moment(one.at), one.why) for one in found]
    shown.table(None, ["severity", "subject", "reason", "since", "why"], rows)


def _row(one: RefusalGroup) -> tuple[object, ...]:
    examples = "\n".join(
        f"{e.partition}:{e.offset}  {shown.readable(e.reason, 60)}\n  {shown.readable(e.raw, 60)}"
        for e in one.examples
    )
    return one.code, one.field, one.count, f"{one.share:.2%}", _moment(one.first), _moment(one.last), examples


def _reason(one: RefusedEvent) -> str:
    return shown.readable(f"{one.code}{f' {one.field}' if one.field else ''}: {one.reason}")


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def _group(one: RefusalGroup) -> dict[str, object]:
    return {**_fields(one), "examples": [_event(example) for example in one.examples]}


def _event(one: RefusedEvent) -> dict[str, object]:
    text, encoding = text_of(one.raw)
    return {**_fields(one), "raw": text, "raw_encoding": encoding}


def _fields(one: RefusalGroup | RefusedEvent) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__struct_fields__}


for command in (list_groups, show, replay, alerts):
    quarantine.add_command(command)
