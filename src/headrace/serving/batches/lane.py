"""The lane for large requests: one at a time, in a process of its own beside the replica.

Decoding, looking up, predicting and logging 10,000 instances takes a tenth of a second or more, and most of it
holds Python's interpreter. In a thread of the replica it would delay every single request that arrives then.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Sequence
from pathlib import Path

from headrace.config.settings import Settings
from headrace.http.responses import HttpError
from headrace.kernel.errors import HeadraceError
from headrace.serving.batches.messages import (
    BatchAnswer,
    BatchFailure,
    BatchRequest,
    NotInForce,
    decode_reply,
    encode,
)
from headrace.serving.lane import Lane

__all__ = ["BatchLane"]

_log = logging.getLogger("headrace.serving")
_LONGEST = 60.0  # seconds that an answer may take
_GRACE = 4.0  # seconds in which it may complete its work; a replica has few to end


class BatchLane:
    """Asks the process that answers large requests. It is started with the first one, which the replica then
    answers itself: so nobody waits for the start.

    Args:
        settings: the project's settings.
        names: the models to predict; empty: every model that is released.
        folder: the folder of the replicas.
        longest: seconds that an answer may take; after that the process is killed.
    """

    def __init__(
        self, settings: Settings, names: Sequence[str], folder: Path, longest: float = _LONGEST
    ) -> None:
        self._lane = Lane(
            "headrace.serving.batches.worker",
            pickle.dumps((settings, tuple(names), folder)),
            work="answers large requests",
            longest=longest,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._start: asyncio.Task[None] | None = None
        self._is_ready = False

    async def ask(self, request: BatchRequest) -> BatchAnswer | BatchFailure | None:
        """The answer to a request. It may be an error's. None: the replica must answer itself, because the
        process starts, or does not have the releases that are in force.

        Raises:
            HttpError: 504: there was no answer within the time limit.
            Unavailable: the process ended.
        """
        if not self._is_ready:
            if self._start is None or self._start.done():
                self._loop = asyncio.get_running_loop()
                self._start = self._loop.create_task(self._prepare())
            return None
        try:
            reply = decode_reply(await self._lane.ask(encode(request)))
        except (HeadraceError, HttpError):
            self._is_ready = False
            raise
        return None if isinstance(reply, NotInForce) else reply

    def poll(self) -> None:
        """Makes the process activate new releases, if it runs. Another thread than the loop's may call it."""
        if self._is_ready and self._loop is not None and not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._prepare(), self._loop)

    def close(self) -> None:
        """Ends the process, once it has copied the last request to the shadows."""
        if not self._lane.close(_GRACE):
            _log.warning(
                "the process for large requests left its last work: it died, or took over %g s", _GRACE
            )

    async def _prepare(self) -> None:
        """Starts the process unless it runs, and makes it activate new releases."""
        try:
            await self._lane.ask(b"")
            self._is_ready = True
        except (HeadraceError, HttpError) as error:  # the next large request tries again
            self._is_ready = False
            _log.error("large requests are answered in the replica: %s", error)
