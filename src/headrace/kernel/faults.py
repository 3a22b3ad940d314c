"""Faults: named points of the write paths at which a test kills the process as kill -9 would, or stops it.

`HEADRACE_FAULT=ingest.after_commit` kills at that point; `ingest.after_commit:3` at the third time it
is reached; `ingest.after_commit:3:STOP` sends SIGSTOP instead, and the process goes on from there when
it gets SIGCONT. Without the variable, or at any other point, nothing happens.
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
    """Says that this process is at the named point. Does not return where the environment has it killed there.

    The variable is read each time, so that a forked child may be given its own.
    """
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    name, nth, how = (*wanted.split(":"), "", "")[:3]
    if name != point:
        return
    with _lock:
        _reached[wanted] += 1
        now = _reached[wanted] == int(nth or 1)
    if now:
        os.kill(os.getpid(), signal.Signals[f"SIG{how or 'KILL'}"])
