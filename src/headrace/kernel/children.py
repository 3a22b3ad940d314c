"""Child processes of this process: supervises them, and starts them again if they die or hang."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from headrace.kernel.backoff import Backoff
from headrace.kernel.errors import Unavailable
from headrace.kernel.private import make_private
from headrace.kernel.process import end_session

__all__ = ["Child", "Children"]

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds between two starts of a child that keeps dying
_STEADY = 60.0  # a child that lived this many seconds is started again without a pause
_CHECK_EVERY = 0.02  # seconds between two checks of a child that starts
_SILENT = 20.0  # a child that sends heartbeats counts as hung after this many seconds without one
_DELAYED = 5.0  # a child whose last heartbeat is older, in seconds, does not work now
_GRACE = 10.0  # seconds that a child has to end
_LARGEST_LOG = 16 << 20  # bytes of a log; the older half of a larger one is removed


class Child:
    """A supervised process. Its program calls the functions of kernel.child.

    It ends when this process ends in any way, because its standard input is a pipe from this process.

    Args:
        name: its name in messages.
        command: the program and its arguments.
        log: the file for its standard error; it is emptied at the start, and keeps the newest 8 to 16 MiB.
        environment: its environment variables.
        files: file descriptors that it inherits.
        longest_start: seconds that it may take to report that it is ready.
        umask: its umask; -1: this process's umask.

    Attributes:
        name: its name in messages.
        process: the current process.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        files: Sequence[int] = (),
        longest_start: float = 60.0,
        umask: int = -1,
    ) -> None:
        self.name, self._longest_start, self._umask = name, longest_start, umask
        self._command, self._files = list(command), tuple(files)
        # A child that is started again must not compile every imported module again.
        self._environment = {n: v for n, v in environment.items() if n != "PYTHONDONTWRITEBYTECODE"}
        self._log = log
        make_private(log.parent)
        log.write_bytes(b"")
        self._backoff = Backoff(_SHORTEST_PAUSE, _LONGEST_PAUSE)
        self._pause = 0.0
        self._due: float | None = None
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self._since = time.monotonic()
        self._due = None
        self._ready = False
        self._beat: float | None = None
        self._unfinished, self._events = b"", list[str]()
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            # In a new session, so that Ctrl-C reaches only the parent, which ends its children in order.
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                pass_fds=self._files,
                start_new_session=True,
                umask=self._umask,
            )
        os.set_blocking(_pipe(process.stdout).fileno(), False)
        return process

    @property
    def ready(self) -> bool:
        """Whether it runs and has reported that it is ready."""
        self._listen()
        return self._ready and self.process.poll() is None

    @property
    def responsive(self) -> bool:
        """Whether it is ready and its last heartbeat, if it sends them, is not older than 5 s."""
        return self.ready and (self._beat is None or time.monotonic() - self._beat < _DELAYED)

    def check_start(self) -> bool:
        """Whether it is ready.

        Raises:
            Unavailable: it died before it was ready, or took too long.
        """
        if self.ready:
            return True
        code = self.process.poll()
        if code is not None:
            raise Unavailable(
                f"{self.name} does not start ({_describe_end(code)}): {self.find_end_reason(code)}"
            )
        silence = self._describe_silence()
        if silence:
            raise Unavailable(f"{self.name} {silence}: {self.last_log_line}")
        return False

    def await_ready(self, stop: threading.Event | None = None) -> None:
        """Waits until it is ready, or until `stop` is set. Raises Unavailable as check_start."""
        stop = stop or threading.Event()
        while not stop.is_set() and not self.check_start():
            stop.wait(_CHECK_EVERY)

    def _listen(self) -> None:
        signals = _pipe(self.process.stdout).read()
        if not signals:
            return
        *lines, self._unfinished = (self._unfinished + signals).split(b"\n")
        if b"." in lines:
            self._beat = time.monotonic()
        self._events += [line[1:].decode(errors="replace") for line in lines if line.startswith(b"!")]
        # A library may have written the beginning of a line.
        self._ready |= any(line == b"." or (line.endswith(b"ready") and line[:1] != b"!") for line in lines)

    def supervise(self, report: Callable[[str], None]) -> None:
        """Starts it again if it has died: at once, or after a growing pause if it keeps dying soon.

        Kills it if its heartbeats have stopped. Removes the older half of a log that is too large.
        """
        self._shorten_log()
        if self._due is not None:
            if time.monotonic() >= self._due:
                self._close()
                # What it had started must not work beside the new one.
                left = end_session(self.process.pid, self._due)
                if left:
                    report(f"{self.name}: what it had started cannot be ended: {', '.join(map(str, left))}")
                self.process = self._start()
            return
        self._listen()
        for event in self._events:
            report(f"{self.name}: {event}")
        self._events.clear()
        code = self.process.poll()
        if code is None:
            silence = self._describe_silence()
            if silence:
                report(f"{self.name} hangs: it {silence}, and is killed")
                self.process.kill()
                self.process.wait()
            return
        if time.monotonic() - self._since > _STEADY:
            self._backoff.reset()
            self._pause = 0.0
        if code == os.EX_TEMPFAIL:  # it requests a restart: nothing is wrong
            self._due = time.monotonic()
            report(f"{self.name} starts again: {self.last_log_line}")
            return
        self._due = time.monotonic() + self._pause
        again = "it is started again" + (f" in {self._pause:.1f} s" if self._pause else "")
        report(f"{self.name} ended ({_describe_end(code)}): {self.find_end_reason(code)}; {again}")
        self._pause = self._backoff.next_pause()

    def _describe_silence(self) -> str | None:
        """Describes the silence if it has been silent for too long; otherwise None."""
        if not self._ready and time.monotonic() - self._since > self._longest_start:
            return f"was not ready within {self._longest_start:g} s"
        if self._beat is not None and time.monotonic() - self._beat > _SILENT:
            return f"sent no heartbeat for {_SILENT:g} s"
        return None

    def find_end_reason(self, code: int) -> str:
        """Why it ended, and its log's path."""
        if code == -signal.SIGKILL:  # the last line of its log says nothing about that
            return f"it was killed ({self._log})"
        return self.last_log_line

    @property
    def last_log_line(self) -> str:
        """The last line of its log since its start, or why there is none, and the log's path."""
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        if lines:
            return f"{lines[-1].strip()} ({self._log})"
        try:
            with self._log.open("ab", buffering=0) as log:
                log.write(b"\n")
        except OSError as error:  # the disk is full, which may be why it ended
            return f"its log cannot be written: {error.strerror} ({self._log})"
        return f"its log is empty ({self._log})"

    def _shorten_log(self) -> None:
        with self._log.open("ab") as log:  # which makes it anew if it was removed
            size = log.tell()
        if size <= _LARGEST_LOG:
            return
        with self._log.open("r+b") as log:
            log.seek(size - _LARGEST_LOG // 2)
            log.readline()  # the rest of a line whose beginning is removed
            removed = log.tell()
            newest = log.read()
            log.truncate(0)  # the child appends at the new end; what it wrote since the read is lost
        with self._log.open("ab") as log:
            log.write(newest)
        self._log_start = max(0, self._log_start - removed)

    def terminate(self) -> None:
        """Sends SIGTERM; call `end` to wait."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def end(self, deadline: float) -> None:
        """Waits until it and what it started have ended; after the deadline (as time.monotonic) kills them."""
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        end_session(self.process.pid, deadline)
        self._close()

    def _close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Children:
    """The children of this process. Only one thread may use it."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def add(self, child: Child) -> None:
        """Adds a child, which runs already."""
        self._children.append(child)

    @property
    def processes(self) -> dict[str, int]:
        """Name → process id."""
        return {child.name: child.process.pid for child in self._children}

    def await_ready(self, stop: threading.Event | None = None) -> None:
        """Waits until every child is ready, or until `stop` is set. Raises Unavailable as Child.check_start."""
        for child in self._children:
            child.await_ready(stop)

    def supervise(self, report: Callable[[str], None]) -> None:
        """Supervises each child (Child.supervise)."""
        for child in self._children:
            child.supervise(report)

    def end(self) -> None:
        """Ends all children at once, and waits until they have ended."""
        for child in self._children:
            child.terminate()
        deadline = time.monotonic() + _GRACE
        for child in self._children:
            child.end(deadline)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _describe_end(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit {code}"
