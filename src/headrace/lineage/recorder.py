"""The recorder: writes the events of runs on its own thread, so that no work waits or fails because of it."""

from __future__ import annotations

import atexit
import contextlib
import logging
import queue
import threading
from collections.abc import Callable

from headrace.kernel.errors import HeadraceError
from headrace.kernel.run import RunEvent
from headrace.lineage.event import RunRecord, copy_event

__all__ = ["OutboxRecorder"]

_log = logging.getLogger("headrace.lineage")
_CAPACITY = 10_000  # events that may wait; further events are dropped and counted
_BATCH = 256
_FLUSH_SECONDS = 30.0  # a busy disk may take some seconds, and events that are unwritten at the end are lost


class OutboxRecorder:
    """A kernel.run.Recorder that writes from one thread, in the order of the events.

    All events are written by the end of its `with` block, and when the process exits. Events that cannot be
    written are dropped and counted: in `dropped`, and in the store (which doctor shows) at the next write that
    succeeds.

    Args:
        write: writes records in order, in one transaction, with the number of events that were dropped since
            the last successful write, and the reason; it runs on the recorder's thread.
    """

    def __init__(self, write: Callable[[list[RunRecord], int, str], None]) -> None:
        self._write = write
        self._queue: queue.Queue[RunRecord | threading.Event] = queue.Queue(_CAPACITY)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._unsaved = 0
        self._reason = ""
        self.dropped = 0

    def record(self, event: RunEvent) -> None:
        """Queues a copy of the event. Never waits for the disk, never raises."""
        try:
            self._queue.put_nowait(copy_event(event))
            if self._thread is None:
                self._start()
        except Exception as error:
            self._drop(1, error)

    def flush(self, timeout: float = _FLUSH_SECONDS) -> bool:
        """Waits until all events so far are written or dropped; False if this takes longer than `timeout`."""
        if self._thread is None:
            return True
        done = threading.Event()
        try:
            self._queue.put(done, timeout=timeout)
        except queue.Full:
            return False
        return done.wait(timeout)

    def __enter__(self) -> OutboxRecorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lineage", daemon=True)
                self._thread.start()
                atexit.register(self._at_exit)

    def _at_exit(self) -> None:
        if not self.flush():
            _log.warning("lineage: events are still unwritten after %.0f s", _FLUSH_SECONDS)
        if self._unsaved:
            _log.warning("lineage: %d events were dropped: %s", self._unsaved, self._reason)

    def _run(self) -> None:
        while True:
            records: list[RunRecord] = []
            flushes: list[threading.Event] = []
            item = self._queue.get()
            while True:
                if isinstance(item, threading.Event):
                    flushes.append(item)
                else:
                    records.append(item)
                if len(records) >= _BATCH:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            if records:
                self._save(records)
            for flush in flushes:
                flush.set()

    def _save(self, records: list[RunRecord]) -> None:
        unsaved = self._unsaved
        try:
            self._write(records, unsaved, self._reason)
        except Exception as error:
            if len(records) == 1:
                self._drop(1, error)
                return
            for record in records:  # a record that cannot be written must not affect the others
                self._save([record])
        else:
            with self._lock:
                self._unsaved -= unsaved

    def _drop(self, count: int, error: Exception) -> None:
        with contextlib.suppress(Exception), self._lock:
            self.dropped += count
            self._unsaved += count
            self._reason = (
                error.what if isinstance(error, HeadraceError) else f"{type(error).__name__}: {error}"
            )
            _log.debug("lineage: %d events dropped", count, exc_info=error)
