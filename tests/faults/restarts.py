"""A broker that is stopped, killed and started again where it was."""

from __future__ import annotations

import os
import signal
from contextlib import AbstractContextManager
from pathlib import Path

from services.kafka import Broker, broker

__all__ = ["Restarts"]

# What waits for a dead client's transaction or session waits less long than usual.
_SETTINGS = {
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 200,
    "group.min.session.timeout.ms": 1_000,
}


class Restarts:
    """A broker on one port, with its data in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port: int | None = None
        self._running: AbstractContextManager[Broker] | None = None
        self._broker: Broker | None = None

    def start(self) -> str:
        """Starts it and returns its address. Raises Missing as services.kafka does."""
        self._running = broker(self._folder, self._port, _SETTINGS)
        self._broker = self._running.__enter__()
        self._port = self._broker.port
        return self._broker.url

    def stop(self) -> None:
        """Asks it to end, and waits for that."""
        if self._running is not None:
            self._running.__exit__(None, None, None)
            self._running = None

    def kill(self) -> None:
        """kill -9."""
        assert self._broker is not None
        os.killpg(self._broker.pid, signal.SIGKILL)
        self.stop()
