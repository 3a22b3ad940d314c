"""headrace send"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from headrace.cli import show
from headrace.cli.call import Call, command
from headrace.cli.live import show_live
from headrace.flows.events.earlier_sends import EarlierSend
from headrace.flows.events.send import SendReport
from headrace.flows.events.send import send as send_file
from headrace.kernel.counts import plural
from headrace.kernel.errors import Refused
from headrace.kernel.time import format_age, now

__all__ = ["send"]

_NAMED = 10  # the most events that an error names


@command("send", example="headrace send user_behaviour events.csv --shift-to-now")
@click.argument("topic")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--rate", type=float, metavar="N", help="At most N events a second.")
@click.option("--skip", type=int, default=0, metavar="N", help="Skip the first N events.")
@click.option(
    "--shift-to-now", is_flag=True, help="Move the times of all events so that the last event is now."
)
@click.option(
    "--live",
    is_flag=True,
    help="The events happen now: features know each from its arrival. By default they are history, and features"
    " know each from its own time.",
)
@click.option(
    "--shift-by", type=int, metavar="SECONDS", help="Move the times of all events by this many seconds."
)
def send(
    call: Call,
    topic: str,
    file: Path,
    rate: float | None,
    skip: int,
    shift_to_now: bool,
    shift_by: int | None,
    live: bool,
) -> None:
    """Put the events of a CSV, NDJSON or Parquet FILE on TOPIC, as JSON.

    Ingest judges the events, not this command.
    """

    def print_sent(sent: int) -> None:
        if not call.json:
            show_live(f"  {plural(sent, 'event')}")

    def print_earlier(earlier: EarlierSend | None, is_recorded: bool) -> None:
        if call.json:
            return
        if earlier is not None:
            click.echo(f"  {_describe(earlier)}")
        if not is_recorded:
            click.echo(
                "  The state folder cannot be written, so a later send of this file cannot tell of this one."
            )

    report = send_file(
        call.workspace(),
        topic,
        file,
        rate=rate,
        shift_to_now=shift_to_now,
        shift_by=None if shift_by is None else timedelta(seconds=shift_by),
        skip=skip,
        live=live,
        tell=print_earlier,
        progress=print_sent,
    )
    if call.json:
        show.json(report)
    else:
        show_live("")
        moved = f", moved by {report.shifted}" if report.shifted is not None else ""
        events = plural(report.events, "event")
        click.echo(f"Sent {events} to {topic} in {report.seconds:.1f} s{moved}.")
        if report.early:
            click.echo(
                f"  {report.early:,} of them will be read an hour too early: their times have no zone, and lie"
                " in an hour that the clocks show twice."
            )
    if report.too_large:
        raise _too_large(report, file)


def _describe(earlier: EarlierSend) -> str:
    """Says what was sent before, which events count twice, and what leaves them out."""
    age = format_age(now() - earlier.at)
    if earlier.state == "running":
        return (
            f"Another send of this file, as {earlier.file}, has not ended yet, begun {age}: {earlier.repeats}."
        )
    if earlier.state == "complete":
        return f"This file was sent before, {age}, as {earlier.file}: {earlier.repeats}."
    if earlier.events:
        first = "first event" if earlier.events == 1 else f"first {earlier.events:,} events"
        return (
            f"The {first} of this file {'was' if earlier.events == 1 else 'were'} sent before, {age}:"
            f" {earlier.repeats}. --skip {earlier.events} leaves them out."
        )
    return f"A send of this file was cut off, {age}, and may have sent a part of it: {earlier.repeats}."


def _too_large(report: SendReport, file: Path) -> Refused:
    numbers = ", ".join(map(str, report.too_large[:_NAMED]))
    more = ", ..." if len(report.too_large) > _NAMED else ""
    return Refused(
        f"{plural(len(report.too_large), 'event')} not sent, larger than topic {report.topic!r} accepts:"
        f" number {numbers}{more} of the file",
        where=str(file),
        remedy="All others were sent. Make these smaller, or raise the topic's max.message.bytes.",
    )
