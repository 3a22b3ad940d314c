"""The functions that a supervised process calls (kernel.children).

It reports that it is ready, then that it is alive. It ends when the pipe from its parent closes, which happens
however the parent ends.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable

from headrace.kernel.errors import HeadraceError
from headrace.kernel.process import kill_started
from headrace.kernel.secrets import clean_text

__all__ = [
    "end_with_parent",
    "kill_with_parent",
    "log_error",
    "report_alive",
    "report_event",
    "report_ready",
    "run_work",
]

_GRACE = 10.0  # seconds to end by itself once its parent has ended
_PR_SET_PDEATHSIG = 1


def report_ready() -> None:
    """Reports to the parent that this process is ready."""
    _write(b"ready\n")


def report_alive() -> None:
    """Reports to the parent that this process is alive.

    The thread that must not hang calls it about every second.
    """
    _write(b".\n")


def report_event(event: str) -> None:
    """Reports an event for the user to the parent, which shows it on one line after this process's name."""
    _write(f"!{' '.join(clean_text(event).split())}\n".encode())


def run_work(work: Callable[[], None]) -> int:
    """Runs the work of this process. Writes an error to standard error, which is the child's log.

    Returns:
        The exit code.
    """
    try:
        work()
    except HeadraceError as error:
        log_error(error)
        return error.exit_code
    except Exception:
        print(clean_text(traceback.format_exc()), file=sys.stderr)  # noqa: T201
        return 1
    return 0


def log_error(error: HeadraceError) -> None:
    """Writes the error to the child's log as one line without secrets."""
    print(clean_text(" ".join(str(error).split())), file=sys.stderr)  # noqa: T201


def end_with_parent() -> None:
    """Starts a thread that ends this process by SIGTERM when its standard input closes; by force after 10 s.

    Then what this process has started is killed too, which the parent does as long as it lives. On Linux a
    process that is suspended (SIGSTOP) at that time is resumed, so that it ends.
    """
    is_orphan = threading.Event()
    atexit.register(_kill_started_if, is_orphan)
    _ask_signal(signal.SIGCONT)
    threading.Thread(target=_follow_parent, args=[is_orphan], name="parent", daemon=True).start()


def kill_with_parent() -> None:
    """Has the system kill this process when the thread that started it ends; on Linux only."""
    _ask_signal(signal.SIGKILL)


def _ask_signal(number: int) -> None:
    """Asks for a signal when the thread that started this process ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def _follow_parent(is_orphan: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):  # not sys.stdin.read: its lock would abort the exit
        pass
    is_orphan.set()
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_GRACE)
    kill_started()
    os._exit(1)


def _kill_started_if(is_orphan: threading.Event) -> None:
    if is_orphan.is_set():
        kill_started()


def _write(signals: bytes) -> None:
    try:
        os.write(sys.stdout.fileno(), signals)
    except (BlockingIOError, BrokenPipeError):  # the parent has not read for long, or has ended
        return
