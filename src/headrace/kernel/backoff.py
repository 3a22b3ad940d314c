"""Backoff: how long to wait before the next attempt after a failure."""

from __future__ import annotations

import random

__all__ = ["Backoff"]


class Backoff:
    """Pauses that double with each failure in a row, with jitter, so that clients that failed together do not
    all try again together.

    Args:
        shortest: seconds before the first retry.
        longest: seconds that no pause exceeds.
    """

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest, self._longest = shortest, longest
        self._failures = 0

    def next_pause(self) -> float:
        """Seconds to wait after one more failure: half to all of the doubled pause."""
        pause = min(self._longest, self._shortest * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return pause * random.uniform(0.5, 1)  # noqa: S311 - no secret

    def reset(self) -> None:
        """Resets the pauses after a success."""
        self._failures = 0
