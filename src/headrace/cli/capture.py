"""headrace capture"""

from __future__ import annotations

import signal
import threading
from contextlib import suppress

import click

from headrace.cli import show
from headrace.cli.call import Call, command
from headrace.flows.events.capture import capture as capture_changes

__all__ = ["capture"]


@command("capture", example="headrace capture")
def capture(call: Call) -> None:
    """Put the changes of the project's database tables on the log, until Ctrl-C.

    The tables are those declared by @changes. PGHOST, PGPORT, PGDATABASE, PGUSER and PGPASSWORD name the
    database. If it is killed at any point, the next call continues.
    """
    stop = threading.Event()

    with suppress(ValueError):  # not the main thread: the caller stops it in another way
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, lambda *_: stop.set())
    report = capture_changes(
        call.workspace(),
        stop=stop,
        progress=(lambda _topic, _changes: None)
        if call.json
        else lambda topic, changes: click.echo(f"  {topic}: {changes:,} changes"),
    )
    if call.json:
        show.json(report)
    elif not report.topics:
        click.echo("No changes.")
    else:
        show.table(None, ["topic", "changes"], list(report.topics.items()))
