"""Waiting on a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(
    condition: Callable[[], T],
    otherwise: str | Callable[[], str] = "the condition did not hold",
    seconds: float = 180.0,
) -> T:
    """Calls the condition until it returns a true value, and returns that value.

    Args:
        condition: what is waited for.
        otherwise: the message of the failure, or what makes it then.
        seconds: the deadline. It is far away: a machine that is busy for a while must not fail a test.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() >= deadline:
            message = otherwise if isinstance(otherwise, str) else otherwise()
            raise AssertionError(f"{message}: waited {seconds:g} s")
        time.sleep(0.02)
    return value
