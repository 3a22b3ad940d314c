"""Waiting on a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], otherwise: str = "it did not come to pass", seconds: float = 60.0) -> T:
    """Asks again and again until it holds, and gives what it then said.

    Args:
        condition: what should come to hold.
        otherwise: what is wrong if it does not.
        seconds: after which the test fails.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{otherwise}: waited {seconds:g} s"
        time.sleep(0.02)
    return found
