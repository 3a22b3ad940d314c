"""A local Ray without the processes that nothing here asks: half the CPU of a start, 300 MB less.

Left out: the API server and its agent on the node (`include_dashboard=False` starts both all the
same), the autoscaler's monitor (one machine does not grow) and the log monitor (a verb does not print
workers' logs). Ray has no settings for that, so what starts them is put aside while Ray starts.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["lean"]

_HERE = Path(__file__).parent
_AGENT = "--dashboard_agent_command="


@contextmanager
def lean() -> Iterator[None]:
    """While the block runs, a Ray that is started is a lean one. One thread at a time."""
    from ray._private import services
    from ray._private.node import Node

    start: Callable[..., Any] = services.start_ray_process

    def started(command: list[str], kind: str, *rest: Any, **more: Any) -> Any:
        return start([_changed(one) for one in command], kind, *rest, **more)

    put = [
        (Node, "start_api_server", _nothing),
        (Node, "start_monitor", _nothing),
        (Node, "start_log_monitor", _nothing),
        (services, "start_ray_process", started),
    ]
    kept = [(place, name, getattr(place, name)) for place, name, _ in put]
    for place, name, other in put:
        setattr(place, name, other)
    try:
        yield
    finally:
        for place, name, own in kept:
            setattr(place, name, own)


def _nothing(*_: object, **__: object) -> None:
    """Starts nothing."""


def _changed(argument: str) -> str:
    """An argument of the raylet's, with our agent in it."""
    if argument.startswith(_AGENT):
        told = dict(
            part[2:].split("=", 1) for part in shlex.split(argument) if part.startswith("--") and "=" in part
        )
        command = [
            sys.executable,
            "-I",
            "-S",
            str(_HERE / "lean_agent.py"),
            told["session-dir"],
            told["node-id"],
        ]
        return _AGENT + subprocess.list2cmdline(command)
    return argument
