"""The callbacks of a running ingest, and the heartbeat that a supervisor waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from msgspec import Struct

from headrace.events.ingest.progress import Progress

__all__ = ["Heartbeat", "IngestHooks"]

LONGEST_SILENCE = 300.0
"""Seconds that one batch may take before its ingest counts as hung. A log's member has the same limit."""
_INTERVAL = 1.0  # seconds between two heartbeats


class IngestHooks(Struct, frozen=True):
    """Functions that an ingest calls.

    Attributes:
        on_commit: called with the progress of each commit, in the thread of its topic.
        on_ready: called once, when the topic is followed by this ingest or by another.
        on_alive: called once for each iteration of the ingest's loop, at least every few minutes.
    """

    on_commit: Callable[[Progress], None] = lambda _: None
    on_ready: Callable[[], None] = lambda: None
    on_alive: Callable[[], None] = lambda: None


class Heartbeat:
    """Reports every second that several ingests are alive, until one of them has been silent for five minutes.

    A stopped process falls silent at once; a process in which one ingest hangs falls silent later.

    Args:
        report: called for each heartbeat.
    """

    def __init__(self, report: Callable[[], None]) -> None:
        self._report = report
        self._beats: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._report()  # at once: whoever stops this process from now on is noticed
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def beat(self, name: str) -> None:
        """Records that the ingest of this name is alive."""
        self._beats[name] = monotonic()

    def end(self, name: str) -> None:
        """Records that the ingest of this name has ended."""
        self._beats.pop(name, None)

    def _run(self) -> None:
        while not self._ended.wait(_INTERVAL):
            if all(monotonic() - beat < LONGEST_SILENCE for beat in list(self._beats.values())):
                self._report()
