"""The lane for requests for past moments: one at a time, in a process of its own beside the replica."""

from __future__ import annotations

import pickle

import msgspec

from headrace.config.settings import Settings
from headrace.serving.as_of.worker import Answer, Question
from headrace.serving.lane import Lane
from headrace.serving.limit import RequestLimit

__all__ = ["AsOfLane"]

_MAX_REQUESTS = 8  # in progress; a further one is refused
_LONGEST = 60.0  # seconds that an answer may take
_decode = msgspec.msgpack.Decoder(Answer).decode


class AsOfLane:
    """Asks the process that answers for past moments. It is started with the first request.

    Args:
        settings: the project's settings.
        longest: seconds that an answer may take; after that the process is killed.
    """

    def __init__(self, settings: Settings, longest: float = _LONGEST) -> None:
        self._lane = Lane(
            "headrace.serving.as_of.worker",
            pickle.dumps(settings),
            work="answers for past moments",
            longest=longest,
            environment={"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        self._limit = RequestLimit(_MAX_REQUESTS, "requests for past moments")

    async def ask(self, question: Question) -> Answer:
        """The answer to a request. It may be an error's.

        Raises:
            HttpError: 429: too many requests are in progress; 504: there was no answer within the time limit.
            Unavailable: the process ended.
        """
        with self._limit.count_one():
            return _decode(await self._lane.ask(msgspec.msgpack.encode(question)))

    def close(self) -> None:
        """Ends the process."""
        self._lane.close()
