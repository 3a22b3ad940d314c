"""The frame of every child process of `up`: settings, signals, errors, the exit code.

Each module of `runtime.children` is the program of one child: `python -m headrace.runtime.children.NAME ROOT
PROFILE PORT [ARGUMENT...]`. It ends on SIGTERM, or when the process that started it has ended (kernel.child).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from headrace.config.settings import Settings, load_settings
from headrace.http.asgi import App
from headrace.http.serve import await_stop, serve, stop_on_signals
from headrace.kernel.child import end_with_parent, report_alive, report_ready, run_work
from headrace.kernel.children import Child

__all__ = ["Work", "run_child", "serve_until", "start_child"]

Work = Callable[[Settings, int, threading.Event], None]
"""The work of a child: gets the settings and the port, and returns soon after the event is set."""


def start_child(
    name: str, settings: Settings, port: int = 0, *, arguments: Sequence[str] = (), umask: int = -1
) -> Child:
    """Starts the program `headrace.runtime.children.NAME`. Its log is `up/NAME.log` in the state folder.

    Args:
        arguments: the program's further arguments.
        umask: the umask of the process; -1: that of this process.
    """
    frame = [str(settings.root), settings.profile_name, str(port)]
    return Child(
        name,
        [sys.executable, "-m", f"headrace.runtime.children.{name}", *frame, *arguments],
        settings.place("up", f"{name}.log"),
        {**os.environ, "HEADRACE_STATE": str(settings.state.parent)},
        umask=umask,
    )


def run_child(work: Work) -> int:
    """Does the work until SIGTERM, in a process that `start_child` started. Returns the exit code.

    An error is written to standard error, which is the child's log.
    """
    root, profile, port = sys.argv[1:4]
    stop = stop_on_signals()
    end_with_parent()
    return run_work(lambda: work(load_settings(Path(root), profile), int(port), stop))


def serve_until(app: App, settings: Settings, port: int, stop: threading.Event) -> None:
    """Serves the application until `stop`; reports that it is ready, and every second that it is alive."""
    with serve(app, settings.http.host, port, beat=report_alive):
        report_ready()
        await_stop(stop)
