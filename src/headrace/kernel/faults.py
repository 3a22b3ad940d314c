"""Fault points: named points of the write paths at which a test kills or suspends the process.

`HEADRACE_FAULT=ingest.after_commit` kills it (SIGKILL) at that point; `ingest.after_commit:3` when it reaches
the point for the third time; `ingest.after_commit:3:STOP` sends SIGSTOP instead, and SIGCONT resumes it.
Without the variable, or at any other point, nothing happens.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter

__all__ = ["VARIABLE", "reach"]

VARIABLE = "HEADRACE_FAULT"

_lock = threading.Lock()
_times_reached: Counter[str] = Counter()


def reach(point: str) -> None:
    """Marks a point of a write path. Kills or suspends the process if the environment names this point.

    The variable is read each time, so that a forked child can have its own.
    """
    fault = os.environ.get(VARIABLE)
    if not fault:
        return
    name, nth, signal_name = (*fault.split(":"), "", "")[:3]
    if name != point:
        return
    with _lock:
        _times_reached[fault] += 1
        strikes = _times_reached[fault] == int(nth or 1)
    if strikes:
        os.kill(os.getpid(), signal.Signals[f"SIG{signal_name or 'KILL'}"])
