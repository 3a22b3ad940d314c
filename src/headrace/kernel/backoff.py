"""Backoff: pauses between attempts that grow while they fail."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

__all__ = ["Backoff", "repeat"]


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


def repeat(
    action: Callable[[], float],
    stop: threading.Event,
    *,
    shortest: float,
    longest: float,
    on_failure: Callable[[Exception], None],
) -> None:
    """Repeats an action until `stop` is set. No exception of the action ends the repetition.

    Args:
        action: returns the seconds to wait before it is called again.
        stop: set to end the repetition; it also ends a pause.
        shortest, longest: seconds of the first and of the longest pause after failures in a row (Backoff).
        on_failure: called with each exception.
    """
    backoff = Backoff(shortest, longest)
    while not stop.is_set():
        try:
            pause = action()
            backoff.reset()
        except Exception as error:
            pause = backoff.next_pause()
            on_failure(error)
        stop.wait(pause)
