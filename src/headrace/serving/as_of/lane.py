"""The lane for requests for past moments: one at a time, in a process of its own beside the replica."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import msgspec

from headrace.config.settings import Settings
from headrace.http.responses import HttpError
from headrace.kernel.errors import Unavailable
from headrace.serving.as_of.worker import Answer, Question, read_frame, write_frame

__all__ = ["AsOfLane"]

_MAX_WAITING = 8  # requests that wait for their turn; a further one is refused
_LONGEST = 60.0  # seconds that an answer may take
_decode = msgspec.msgpack.Decoder(Answer).decode


class AsOfLane:
    """Asks the process that answers for past moments. It is started with the first request.

    Args:
        settings: the project's settings.
        longest: seconds that an answer may take; after that the process is killed.
    """

    def __init__(self, settings: Settings, longest: float = _LONGEST) -> None:
        self._settings, self._longest = settings, longest
        self._waiting = 0
        # Its own thread: those of asyncio answer live requests.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="as of")
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    async def ask(self, question: Question) -> Answer:
        """The answer to a request. It may be an error's.

        Raises:
            Unavailable: too many requests wait, or the process ended.
            HttpError: 504: there was no answer within the time limit.
        """
        if self._waiting >= _MAX_WAITING:
            raise Unavailable("too many requests for past moments are being answered; try again in a moment")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, question)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Ends the process."""
        self._is_closed = True
        process = self._process
        if process is not None:
            process.kill()
        self._thread.shutdown()
        self._discard()

    def _ask(self, question: Question) -> Answer:
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
            write_frame(process.stdin, msgspec.msgpack.encode(question))
            content = read_frame(process.stdout)
        except BrokenPipeError:
            content = None
        finally:
            timer.cancel()
        if content is not None:
            return _decode(content)
        self._discard()
        if is_late.is_set():
            what = f"There was no answer within {self._longest:g} s. Ask for fewer instances."
            raise HttpError(504, "timeout", what)
        raise Unavailable("the process that answers for past moments ended; the replica's log says why")

    def _start(self) -> subprocess.Popen[bytes]:
        if self._is_closed:
            raise Unavailable("the replica ends")
        process = subprocess.Popen(
            [sys.executable, "-m", "headrace.serving.as_of.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        self._process = process
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already, which `_ask` reports
            write_frame(process.stdin, pickle.dumps(self._settings))
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
