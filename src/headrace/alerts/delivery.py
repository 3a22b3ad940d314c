"""Delivery: takes each change of an alert to every door, at least once, in order.

A door's position on the topic is moved when it has taken a change; a new door begins with the alerts
that are open. One that is away is tried again, after some seconds and then twice as long each time up to
a minute, for as long as it takes; one that refuses a change for what it is gets the next.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from headrace.alerts.channels import Door
from headrace.alerts.record import TOPIC, Alert, Changes
from headrace.kernel.errors import HeadraceError, Refused
from headrace.kernel.files import write_file
from headrace.kernel.lock import try_lock
from headrace.kernel.position import LogPosition
from headrace.kernel.secrets import clean_text
from headrace.log import Log

__all__ = ["Delivered", "Ledger", "deliver"]

_IDLE = 2.0  # seconds between two looks at the topic
_LONGEST = 60.0
_logger = logging.getLogger(__name__)


class Delivered(Struct):
    """How one door stands.

    Attributes:
        name: the door's.
        position: how far it has got the topic; None: it is new.
        delivered, refused: how many changes it has taken, and how many it would not take.
        failure: why the last try did not work; None: it did.
    """

    name: str
    position: LogPosition | None = None
    delivered: int = 0
    refused: int = 0
    failure: str | None = None


class Ledger:
    """How the doors stand, in a file that survives the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._doors: dict[str, Delivered] = {}
        if path.is_file():
            self._doors = msgspec.json.decode(path.read_bytes(), type=dict[str, Delivered])

    def of(self, door: Door) -> Delivered:
        """How this door stands."""
        return self._doors.get(door.id) or Delivered(door.name)

    def keep(self, door: Door, stands: Delivered) -> None:
        """Writes down how it stands; on the disk when this returns."""
        with self._lock:
            self._doors[door.id] = stands
            write_file(self._path, msgspec.json.encode(self._doors))


def deliver(
    doors: Sequence[Door], log: Log, ledger: Path, stop: threading.Event, *, idle: float = _IDLE
) -> None:
    """Delivers to every door until `stop` is set, each by its own thread: a slow one holds up none.

    Only one process does so at a time: others wait until it ends.

    Args:
        ledger: a file in a folder that exists.
    """
    while (lock := try_lock(ledger.with_suffix(".lock"))) is None:
        if stop.wait(idle):
            return
    with lock:
        kept = Ledger(ledger)
        threads = [
            threading.Thread(target=_loop, args=(_Way(door, log, kept), stop, idle), daemon=True)
            for door in doors
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _loop(way: _Way, stop: threading.Event, idle: float) -> None:
    failures = 0
    while not stop.is_set():
        pause = idle
        try:
            way.step(stop)
            failures = 0
        except Exception as error:  # nothing that a door does may end the process it runs in
            failures += 1
            pause = min(_LONGEST, idle * 2.0 ** min(failures, 16)) * random.uniform(0.5, 1)  # noqa: S311
            way.failed(error)
        stop.wait(pause)


class _Way:
    """One door, and what is on its way to it."""

    def __init__(self, door: Door, log: Log, ledger: Ledger) -> None:
        self._door, self._log, self._ledger = door, log, ledger
        self._changes = Changes(log)
        # Each with the position that stands once it is taken; None: a later one has it.
        self._due: deque[tuple[Alert, LogPosition | None]] = deque()

    def step(self, stop: threading.Event) -> None:
        """Delivers what is due."""
        found = self._changes.poll()
        if found:
            self._add(found)
        stands = self._ledger.of(self._door)
        while self._due and not stop.is_set():
            alert, position = self._due[0]
            try:
                self._door.deliver(alert)
                stands.delivered += 1
                stands.failure = None
            except Refused as error:
                stands.refused += 1
                stands.failure = clean_text(str(error))
                _logger.warning("alert %s was not taken and is passed over: %s", alert.id, stands.failure)
            self._due.popleft()
            stands.position = position or stands.position
            self._ledger.keep(self._door, stands)

    def _add(self, found: list[tuple[int, int, Alert]]) -> None:
        topic = self._log.identity(TOPIC)
        at = self._due[-1][1] if self._due else self._ledger.of(self._door).position
        if at is None or at.log_id != topic:  # a new door: what is open, then what comes
            end = LogPosition(TOPIC, topic, {partition: offset + 1 for partition, offset, _ in found})
            opened = self._changes.open
            self._due.extend((alert, end if alert is opened[-1] else None) for alert in opened)
            if not opened:
                stands = self._ledger.of(self._door)
                stands.position = end
                self._ledger.keep(self._door, stands)
            return
        for partition, offset, alert in found:
            if not at.covers(partition, offset):
                at = at.advanced({partition: offset + 1})
                self._due.append((alert, at))

    def failed(self, error: Exception) -> None:
        """Notes why the last try did not work."""
        what = clean_text(str(error) if isinstance(error, HeadraceError) else type(error).__name__)
        stands = self._ledger.of(self._door)
        if stands.failure != what:
            _logger.warning("alerts: %s is tried again: %s", self._door.name, what)
        stands.failure = what
        try:
            self._ledger.keep(self._door, stands)
        except OSError:
            _logger.warning("alerts: how %s stands cannot be written down", self._door.name, exc_info=True)
