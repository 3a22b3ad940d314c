"""Faults: named points of the write paths at which a test kills the process as kill -9 would.

`HEADRACE_FAULT=ingest.after_commit` kills at that point; `ingest.after_commit:3` at the third time it
is reached. Without the variable, or at any other point, nothing happens.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter

__all__ = ["VARIABLE", "reach"]

VARIABLE = "HEADRACE_FAULT"

_lock = threading.Lock()
_reached: Counter[str] = Counter()


def reach(point: str) -> None:
    """Says that this process is at the named point. Does not return where the environment names it.

    The variable is read each time, so that a forked child may be given its own.
    """
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    name, _, nth = wanted.partition(":")
    if name != point:
        return
    with _lock:
        _reached[point] += 1
        if _reached[point] >= int(nth or 1):
            os.kill(os.getpid(), signal.SIGKILL)
