"""A limit of the requests in progress: more are refused at once, instead of being answered late."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from headrace.http.responses import HttpError

__all__ = ["RequestLimit"]


class RequestLimit:
    """Limits how many requests of a kind are in progress. Only the event loop may use it.

    Args:
        limit: how many there may be.
        kind: what they are, for the error: `large requests`.

    Attributes:
        count: how many there are.
    """

    def __init__(self, limit: int, kind: str) -> None:
        self._limit, self._kind = limit, kind
        self.count = 0

    @contextmanager
    def count_one(self) -> Iterator[None]:
        """Counts a request while the block runs. Raises HttpError 429 if there are too many."""
        if self.count >= self._limit:
            what = f"The replica has {self.count:,} {self._kind} in progress; try again in a moment."
            raise HttpError(429, "busy", what, headers={"Retry-After": "1"})
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1
