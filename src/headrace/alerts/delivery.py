"""Delivery: sends each change of an alert to every channel, at least once, in order.

A channel's position on the topic moves when the channel has accepted a change. A new channel starts with the
open alerts. Delivery to a channel that cannot be reached is tried again, without end, after pauses that double
up to a minute. A change that a channel refuses permanently is counted and skipped.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from headrace.alerts.channels import Channel
from headrace.alerts.record import TOPIC, Alert, AlertFollower
from headrace.kernel.backoff import repeat
from headrace.kernel.errors import HeadraceError, Refused
from headrace.kernel.files import write_file
from headrace.kernel.lock import try_lock
from headrace.kernel.position import LogPosition
from headrace.kernel.secrets import clean_text
from headrace.log import Log
from headrace.log.follow import TopicRecord

__all__ = ["DeliveryLedger", "DeliveryState", "deliver"]

_IDLE = 2.0  # seconds between two polls of the topic
_LONGEST = 60.0  # seconds, at most, between two attempts to reach a channel
_logger = logging.getLogger(__name__)


class DeliveryState(Struct):
    """The progress of deliveries to one channel.

    Attributes:
        name: the channel's name.
        position: the position on the topic after the last delivered change; None: the channel is new.
        delivered, refused: the number of changes that the channel has accepted, and has refused.
        failure: why the last attempt failed; None: it succeeded.
    """

    name: str
    position: LogPosition | None = None
    delivered: int = 0
    refused: int = 0
    failure: str | None = None


class DeliveryLedger:
    """The state of all channels, in a file that survives the process. Any thread may use it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._states: dict[str, DeliveryState] = {}
        if path.is_file():
            self._states = msgspec.json.decode(path.read_bytes(), type=dict[str, DeliveryState])

    def state_of(self, channel: Channel) -> DeliveryState:
        """The state of this channel."""
        return self._states.get(channel.id) or DeliveryState(channel.name)

    def store(self, channel: Channel, state: DeliveryState) -> None:
        """Stores the state of this channel; it is on the disk on return."""
        with self._lock:
            self._states[channel.id] = state
            write_file(self._path, msgspec.json.encode(self._states))


def deliver(
    channels: Sequence[Channel], log: Log, ledger: Path, stop: threading.Event, *, idle: float = _IDLE
) -> None:
    """Delivers to every channel until `stop` is set, each in its own thread: a slow channel delays no other.

    Only one process delivers at a time: others wait until it ends.

    Args:
        channels: the channels to deliver to.
        log: the log that holds the topic of alerts.
        ledger: a file in a folder that exists (DeliveryLedger).
        stop: set to end the delivery.
        idle: seconds between two polls of the topic.
    """
    while (lock := try_lock(ledger.with_suffix(".lock"))) is None:
        if stop.wait(idle):
            return
    with lock:
        states = DeliveryLedger(ledger)
        threads = [
            threading.Thread(
                target=_run, args=(_ChannelDelivery(channel, log, states), stop, idle), daemon=True
            )
            for channel in channels
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _run(delivery: _ChannelDelivery, stop: threading.Event, idle: float) -> None:
    def deliver_once() -> float:
        delivery.deliver_due(stop)
        return idle

    repeat(deliver_once, stop, shortest=2 * idle, longest=_LONGEST, on_failure=delivery.note_failure)


class _ChannelDelivery:
    """One channel, and the changes that are still to be delivered to it."""

    def __init__(self, channel: Channel, log: Log, ledger: DeliveryLedger) -> None:
        self._channel, self._log, self._ledger = channel, log, ledger
        self._follower = AlertFollower(log)
        # Each change with the channel's position after it; None: a later change has the position.
        self._due: deque[tuple[Alert, LogPosition | None]] = deque()

    def deliver_due(self, stop: threading.Event) -> None:
        """Polls the topic, and delivers all changes that are due."""
        changes = self._follower.poll()
        if changes:
            self._add(changes)
        state = self._ledger.state_of(self._channel)
        while self._due and not stop.is_set():
            alert, position = self._due[0]
            try:
                self._channel.deliver(alert)
                state.delivered += 1
                state.failure = None
            except Refused as error:
                state.refused += 1
                state.failure = clean_text(str(error))
                _logger.warning("alert %s was refused and is skipped: %s", alert.id, state.failure)
            self._due.popleft()
            state.position = position or state.position
            self._ledger.store(self._channel, state)

    def _add(self, changes: list[TopicRecord[Alert]]) -> None:
        log_id = self._log.identity(TOPIC)
        at = self._due[-1][1] if self._due else self._ledger.state_of(self._channel).position
        if at is None or at.log_id != log_id:  # a new channel gets the open alerts, then each change
            end = LogPosition(TOPIC, log_id, {change.partition: change.offset + 1 for change in changes})
            open_alerts = self._follower.open
            self._due.extend((alert, end if alert is open_alerts[-1] else None) for alert in open_alerts)
            if not open_alerts:
                state = self._ledger.state_of(self._channel)
                state.position = end
                self._ledger.store(self._channel, state)
            return
        for change in changes:
            if not at.covers(change.partition, change.offset):
                at = at.with_offsets({change.partition: change.offset + 1})
                self._due.append((change.value, at))

    def note_failure(self, error: Exception) -> None:
        """Stores why the last attempt failed."""
        failure = clean_text(str(error) if isinstance(error, HeadraceError) else type(error).__name__)
        state = self._ledger.state_of(self._channel)
        if state.failure != failure:
            _logger.warning("alerts: delivery to %s failed and is tried again: %s", self._channel.name, failure)
        state.failure = failure
        try:
            self._ledger.store(self._channel, state)
        except OSError:
            _logger.warning("alerts: the state of %s cannot be stored", self._channel.name, exc_info=True)
