"""A lane: work that a replica must not do while it answers, in a process of its own beside it.

A lane answers one message at a time, in the order of arrival. Messages are frames on the process's standard
input and output (serving.frames); the first one tells it what to begin with. The process ends when its standard
input closes.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import IO

from headrace.http.responses import HttpError
from headrace.kernel.child import kill_with_parent
from headrace.kernel.errors import Unavailable
from headrace.serving.frames import read_frame, write_frame

__all__ = ["Lane", "open_messages"]


class Lane:
    """A process that answers messages. It is started with the first one, and again if it has ended.

    Args:
        module: the module that it runs, as `python -m` does.
        beginning: the first frame.
        work: what it does, for errors: `answers for past moments`.
        longest: seconds that an answer may take; after that the process is killed.
        environment: further variables of the process.
    """

    def __init__(
        self,
        module: str,
        beginning: bytes,
        *,
        work: str,
        longest: float,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._module, self._beginning, self._work = module, beginning, work
        self._longest, self._environment = longest, dict(environment or {})
        # Its own thread: those of asyncio answer live requests.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=module.rpartition(".")[0])
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    async def ask(self, message: bytes) -> bytes:
        """The answer to a message.

        Raises:
            HttpError: 504: there was no answer within the time limit.
            Unavailable: the process ended.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, message)

    def close(self, grace: float = 0.0) -> bool:
        """Ends the process. Returns whether it had completed its work; of a closed lane, True.

        Args:
            grace: seconds that it has to complete what it still does after its last answer.
        """
        if self._is_closed:
            return True
        self._is_closed = True
        try:
            is_complete = self._thread.submit(self._await_end).result(grace)
        except TimeoutError:
            is_complete = False
        process = self._process
        if process is not None:
            process.kill()
        self._thread.shutdown()
        self._discard()
        return is_complete

    def _await_end(self) -> bool:
        """Closes the process's standard input, and waits until it has ended. Returns whether it ended well: one
        that was killed, or failed, left its work."""
        process = self._process
        if process is None:
            return True
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        return process.wait() == 0

    def _ask(self, message: bytes) -> bytes:
        process = self._process
        if process is None or process.poll() is not None:
            self._discard()
            process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        is_late = threading.Event()

        def stop() -> None:
            is_late.set()
            process.kill()

        timer = threading.Timer(self._longest, stop)
        timer.start()
        try:
            write_frame(process.stdin, message)
            answer = read_frame(process.stdout)
        except BrokenPipeError:
            answer = None
        finally:
            timer.cancel()
        if answer is not None:
            return answer
        self._discard()
        if is_late.is_set():
            what = f"There was no answer within {self._longest:g} s. Ask for fewer instances."
            raise HttpError(504, "timeout", what)
        raise Unavailable(f"the process that {self._work} ended; the replica's log says why")

    def _start(self) -> subprocess.Popen[bytes]:
        if self._is_closed:
            raise Unavailable("the replica ends")
        process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **self._environment},
        )
        self._process = process
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already, which `_ask` reports
            write_frame(process.stdin, self._beginning)
        return process

    def _discard(self) -> None:
        """Waits for the end of the process, which was killed or has closed its output, and closes the pipes."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def open_messages(priority: int) -> tuple[Iterator[bytes], IO[bytes]]:
    """The messages that the process of a lane gets, the first frame included, and the stream for its answers.

    What else the process prints goes to standard error. On Linux it is killed when the replica dies, also while
    it works on an answer.

    Args:
        priority: is added to the process's nice value.
    """
    kill_with_parent()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a user's function prints is no answer
    os.nice(priority)
    return iter(lambda: read_frame(sys.stdin.buffer), None), answers
