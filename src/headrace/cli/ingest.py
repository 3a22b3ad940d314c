"""headrace ingest"""

from __future__ import annotations

import signal
import threading
from collections import Counter
from contextlib import suppress

import click

from headrace.cli import show
from headrace.cli.call import Call, verb
from headrace.events.ingest import Progress
from headrace.flows.ingest import IngestReport
from headrace.flows.ingest import ingest as ingest_topics

__all__ = ["ingest"]


@verb("ingest", example="headrace ingest --until-end")
@click.argument("topics", nargs=-1, metavar="[TOPIC]...")
@click.option("--until-end", is_flag=True, help="Stop when what is on the log now is in the tables.")
def ingest(call: Call, topics: tuple[str, ...], until_end: bool) -> None:
    """Move events from the log into their topics' tables and the online state, each exactly once.

    Runs until Ctrl-C, unless --until-end. Killed at any point, it goes on from its last commit.
    """
    stop = threading.Event()
    interrupted = False

    def hear(number: int, _frame: object) -> None:
        nonlocal interrupted
        interrupted = number == signal.SIGINT
        stop.set()

    with suppress(ValueError):  # not the main thread: whoever called ends it otherwise
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, hear)
    report = ingest_topics(
        call.settings(),
        topics,
        until_end=until_end,
        stop=stop,
        progress=(lambda _: None) if call.json else _told,
    )
    if call.json:
        show.json(report)
    else:
        _print(report)
    if interrupted:  # what was read is stored; who called must still see that it was cut short
        raise KeyboardInterrupt


def _told(one: Progress) -> None:
    click.echo(f"  {one.topic}: {one.events:,} events, {one.events - one.good:,} of them refused")


def _print(report: IngestReport) -> None:
    if not report.topics:
        click.echo("No new events.")
        return
    rows = [
        (
            one.topic,
            one.events,
            one.good,
            one.events - one.good,
            _counted(one.refused),
        )
        for one in report.topics.values()
    ]
    show.table(None, ["topic", "events", "good", "refused", "why"], rows)
    for one in report.topics.values():
        if one.extra:
            click.echo(
                f"{one.topic}: fields that the contract does not name are in _extra: {_counted(one.extra)}"
            )
    click.echo(f"{report.events:,} events in {report.seconds:.1f} s.")


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())
