"""The recorder: takes what runs tell and has a thread write it, so that no work waits or fails for it."""

from __future__ import annotations

import atexit
import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from headrace.kernel.run import RunEvent
from headrace.lineage.event import Told, told

__all__ = ["OutboxRecorder"]

_log = logging.getLogger("headrace.lineage")
_ROOM = 10_000  # events that may wait; more are dropped and counted
_BATCH = 256
_FLUSH_SECONDS = 5.0


class OutboxRecorder:
    """A kernel.run.Recorder that writes to the outbox from one thread, in the order it was told.

    Used as a context manager, it has written everything at the end of the block; it also does so
    when the process exits. What cannot be written is dropped and counted: `dropped` here, and in the
    store (which doctor shows) as soon as a write works again.

    Args:
        write: writes events in order, in one transaction, with the number dropped since the last
            write that worked and why; it runs on the recorder's own thread.
    """

    def __init__(self, write: Callable[[list[Told], int, str], None]) -> None:
        self._write = write
        self._queue: queue.Queue[Told | threading.Event] = queue.Queue(_ROOM)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._unsaved = 0
        self._reason = ""
        self.dropped = 0

    def record(self, event: RunEvent) -> None:
        """Takes the event. Never blocks on the disk, never raises."""
        try:
            self._queue.put_nowait(told(event))
            if self._thread is None:
                self._start()
        except Exception as error:
            self._drop(1, error)

    def flush(self, timeout: float = _FLUSH_SECONDS) -> bool:
        """Waits until everything told so far has been written or dropped; False if that took longer
        than `timeout` seconds."""
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
            _log.warning("lineage: not everything was written within %.0f s of the end", _FLUSH_SECONDS)
        if self._unsaved:
            _log.warning("lineage: %d events were dropped: %s", self._unsaved, self._reason)

    def _run(self) -> None:
        while True:
            events: list[Told] = []
            flushed: list[threading.Event] = []
            one: Any = self._queue.get()
            while True:
                (flushed if isinstance(one, threading.Event) else events).append(one)
                if len(events) >= _BATCH:
                    break
                try:
                    one = self._queue.get_nowait()
                except queue.Empty:
                    break
            if events:
                self._save(events)
            for event in flushed:
                event.set()

    def _save(self, events: list[Told]) -> None:
        unsaved = self._unsaved
        try:
            self._write(events, unsaved, self._reason)
        except Exception as error:
            if len(events) == 1:
                self._drop(1, error)
                return
            for one in events:  # one event that cannot be written must not take the others with it
                self._save([one])
        else:
            with self._lock:
                self._unsaved -= unsaved

    def _drop(self, count: int, error: Exception) -> None:
        with contextlib.suppress(Exception), self._lock:
            self.dropped += count
            self._unsaved += count
            self._reason = f"{type(error).__name__}: {error}"
            _log.debug("lineage: %d events dropped", count, exc_info=error)
