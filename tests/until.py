"""Waiting on a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(
    condition: Callable[[], T], otherwise: str = "the condition did not hold", seconds: float = 60.0
) -> T:
    """Calls the condition until it returns a true value, and returns that value.

    Args:
        condition: what is waited for.
        otherwise: the message of the failure.
        seconds: the deadline.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{otherwise}: waited {seconds:g} s"
        time.sleep(0.02)
    return value
