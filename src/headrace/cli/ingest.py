"""headrace ingest"""

from __future__ import annotations

import signal
import threading
from collections import Counter
from contextlib import suppress
from datetime import datetime

import click

from headrace.cli import show
from headrace.cli.call import Call, command
from headrace.cli.moment import Moment
from headrace.events.ingest.ingest import Progress
from headrace.flows.events.ingest import ingest as ingest_topics
from headrace.flows.events.ingest_report import IngestReport
from headrace.kernel.counts import plural
from headrace.kernel.memory import freeze_objects

__all__ = ["ingest"]


@command("ingest", example="headrace ingest --until-end\nheadrace ingest user_behaviour --workers 4")
@click.argument("topics", nargs=-1, metavar="[TOPIC]...")
@click.option("--until-end", is_flag=True, help="Stop when what is on the log now is in the tables.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    metavar="N",
    help="Divide the topics' log partitions among N processes.",
)
@click.option(
    "--history-until",
    type=Moment(),
    metavar="TIME",
    help="Events that arrived before TIME are history: features know each from its own time, not from its"
    " arrival. TIME is like 2026-03-01T12:00 or 2h (two hours ago).",
)
def ingest(
    call: Call, topics: tuple[str, ...], until_end: bool, workers: int, history_until: datetime | None
) -> None:
    """Move events from the log into their topics' tables and the online state, each exactly once.

    Runs until Ctrl-C, unless --until-end. If it is killed at any point, the next call continues from the last
    commit. If several run, on this machine or others, they share the topics.
    """
    stop = threading.Event()
    interrupted = False

    def stop_on_signal(number: int, _frame: object) -> None:
        nonlocal interrupted
        interrupted = number == signal.SIGINT
        stop.set()

    with suppress(ValueError):  # not the main thread: the caller stops it in another way
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, stop_on_signal)
    workspace, progress = call.workspace(), (lambda _: None) if call.json else _print_progress
    if workers == 1:
        report = ingest_topics(
            workspace,
            topics,
            until_end=until_end,
            history_until=history_until,
            stop=stop,
            progress=progress,
            on_ready=(lambda: None) if until_end else freeze_objects,
        )
    else:
        from headrace.flows.events.ingest_workers import ingest_by_workers

        report = ingest_by_workers(
            workspace,
            topics,
            workers,
            until_end=until_end,
            history_until=history_until,
            stop=stop,
            progress=progress,
        )
    if call.json:
        show.json(report)
    else:
        _print(report)
    if interrupted:  # everything that was read is stored, but the exit code must show the interruption
        raise KeyboardInterrupt


def _print_progress(topic: Progress) -> None:
    click.echo(
        f"  {topic.topic}: {plural(topic.events, 'event')}, {topic.events - topic.good:,} of them refused"
    )


def _print(report: IngestReport) -> None:
    if not report.topics:
        click.echo("No new events. To put some on a topic: headrace send TOPIC FILE")
        return
    rows = [
        (
            topic.topic,
            topic.events,
            topic.good,
            topic.events - topic.good,
            _format_counts(topic.refused),
        )
        for topic in report.topics.values()
    ]
    show.table(None, ["topic", "events", "good", "refused", "why"], rows)
    for topic in report.topics.values():
        if topic.lost:
            lost = click.style(
                f"{topic.topic}: up to {plural(topic.lost, 'event', 'is', 'are')} lost", fg="red", bold=True
            )
            click.echo(f"{lost}: the log deleted them (its retention) before they were read.")
        if topic.extra:
            click.echo(
                f"{topic.topic}: fields that the contract does not name are in _extra:"
                f" {_format_counts(topic.extra)}"
            )
    click.echo(f"{plural(report.events, 'event')} in {report.seconds:.1f} s.")


def _format_counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())
