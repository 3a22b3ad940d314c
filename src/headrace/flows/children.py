"""Children: the processes that `up` runs beside Ray, started together, watched, started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import IO

from headrace.config.settings import Settings
from headrace.kernel.errors import Unavailable
from headrace.kernel.private import make_private

__all__ = ["Child", "Children"]

_LONGEST_PAUSE = 30.0  # seconds between two starts of a child that keeps dying
_STEADY = 60.0  # seconds of life after which its next start is at once again
_GRACE = 10.0  # seconds that a child has to end


class Child:
    """One process, `python -m headrace.flows.child NAME`, and its log.

    It ends with the process that made it, however that ends: its standard input is a pipe from here.

    Attributes:
        name: what it does.
        process: as it runs now.
    """

    def __init__(self, name: str, settings: Settings, port: int | None) -> None:
        self.name = name
        self._command = [
            sys.executable, "-m", "headrace.flows.child",
            name, str(settings.root), settings.profile_name, str(port or 0),
        ]  # fmt: skip
        self._log = settings.place("up", f"{name}.log")
        make_private(self._log.parent)
        self._log.write_bytes(b"")
        self._environment = {**os.environ, "HEADRACE_STATE": str(settings.state.parent)}
        self._pause = 0.5
        self._due: float | None = None
        self._ready = False
        self.process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        self._since = time.monotonic()
        self._due = None
        self._ready = False
        with self._log.open("ab") as log:
            # A session of its own: Ctrl-C reaches `up` alone, which ends its children in order.
            process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                env=self._environment, start_new_session=True,
            )  # fmt: skip
        os.set_blocking(_pipe(process.stdout).fileno(), False)
        return process

    @property
    def ready(self) -> bool:
        """Whether it has said that it is at work."""
        if not self._ready:
            self._ready = bool(_pipe(self.process.stdout).read())
        return self._ready

    def look(self, report: Callable[[str], None]) -> None:
        """Starts it again if it has died, a while after: longer each time it dies soon."""
        if self._due is not None:
            if time.monotonic() >= self._due:
                self._close()
                self.process = self._started()
            return
        code = self.process.poll()
        if code is None:
            return
        if time.monotonic() - self._since > _STEADY:
            self._pause = 0.5
        self._due = time.monotonic() + self._pause
        report(f"{self.name} ended ({_said(code)}): {self.last_words}; again in {self._pause:g} s")
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    @property
    def last_words(self) -> str:
        """The last line of its log, and where the rest is."""
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f"{lines[-1].strip()} ({self._log})" if lines else str(self._log)

    def ask_to_end(self) -> None:
        """Asks it to end; `end` then waits."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def end(self, deadline: float) -> None:
        """Waits until the deadline (monotonic) for its end, then kills it."""
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._close()

    def _close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Children:
    """All of them. To be used by one thread."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def start(self, name: str, settings: Settings, port: int | None = None) -> None:
        """Starts a child and does not wait for it."""
        self._children.append(Child(name, settings, port))

    @property
    def processes(self) -> dict[str, int]:
        """Name → process id."""
        return {child.name: child.process.pid for child in self._children}

    def await_ready(self, seconds: float) -> None:
        """Returns when every child is at work.

        Raises:
            Unavailable: one died, or took too long.
        """
        deadline = time.monotonic() + seconds
        for child in self._children:
            while not child.ready:
                code = child.process.poll()
                if code is not None:
                    raise Unavailable(f"{child.name} does not start ({_said(code)}): {child.last_words}")
                if time.monotonic() > deadline:
                    raise Unavailable(f"{child.name} did not start within {seconds:g} s: {child.last_words}")
                time.sleep(0.02)

    def look(self, report: Callable[[str], None]) -> None:
        """Starts again what has died, and reports it."""
        for child in self._children:
            child.look(report)

    def end(self) -> None:
        """Ends all of them together; returns when they are gone."""
        for child in self._children:
            child.ask_to_end()
        deadline = time.monotonic() + _GRACE
        for child in self._children:
            child.end(deadline)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _said(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit {code}"
