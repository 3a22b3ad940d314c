"""Child: what a supervised process does for the one that started it (kernel.children).

It says that it is at work, and goes on saying so; it ends when the pipe from its parent closes, as that
does however the parent ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable

from headrace.kernel.errors import HeadraceError
from headrace.kernel.secrets import clean_text

__all__ = ["end_with_parent", "log_error", "report_alive", "report_ready", "run_work"]

_GRACE = 10.0  # seconds to end by itself once its parent is gone
_PR_SET_PDEATHSIG = 1


def report_ready() -> None:
    """Says that this process is at work."""
    _say(b"ready\n")


def report_alive() -> None:
    """Says that this process goes on; to be called every second or so, by what must not stand still."""
    _say(b".\n")


def run_work(work: Callable[[], None]) -> int:
    """Does the work of this process. An error goes to standard error, which is the child's log.

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
    print(clean_text(str(error).replace("\n ", "")), file=sys.stderr)  # noqa: T201


def end_with_parent() -> None:
    """Starts a thread that ends this process by SIGTERM when its standard input closes, and by force where
    that takes longer than 10 s. Where this process is stopped then, it goes on, to end (on Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)
    threading.Thread(target=_follow_parent, name="parent", daemon=True).start()


def _follow_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):  # not by sys.stdin: its lock, held here, would abort our own end
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    if threading.Event().wait(_GRACE):
        return
    os._exit(1)


def _say(text: bytes) -> None:
    try:
        os.write(sys.stdout.fileno(), text)
    except (BlockingIOError, BrokenPipeError):  # the parent has not read for long, or is gone: see above
        return
