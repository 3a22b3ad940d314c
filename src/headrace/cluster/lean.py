"""Starts a local Ray without the processes that Headrace does not use: half the CPU of a start, 300 MB less.

It starts no API server and no agent of it on the node (`include_dashboard=False` does not prevent them), no
autoscaler's monitor (one machine does not grow) and no log monitor (commands do not print workers' logs). Ray
has no settings for that, so the functions that start them are replaced while Ray starts.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["skip_unused_processes"]

_HERE = Path(__file__).parent
_AGENT = "--dashboard_agent_command="


@contextmanager
def skip_unused_processes() -> Iterator[None]:
    """Makes a Ray that starts in the block skip these processes. Only one thread may be in the block."""
    from ray._private import services
    from ray._private.node import Node

    start: Callable[..., Any] = services.start_ray_process

    def start_with_lean_agent(command: list[str], process_type: str, *rest: Any, **more: Any) -> Any:
        return start([_replace_agent(argument) for argument in command], process_type, *rest, **more)

    replacements = [
        (Node, "start_api_server", _start_nothing),
        (Node, "start_monitor", _start_nothing),
        (Node, "start_log_monitor", _start_nothing),
        (services, "start_ray_process", start_with_lean_agent),
    ]
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements]
    for owner, name, replacement in replacements:
        setattr(owner, name, replacement)
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _start_nothing(*_: object, **__: object) -> None:
    """Starts nothing."""


def _replace_agent(argument: str) -> str:
    """The argument of the raylet, with our agent in place of Ray's."""
    if not argument.startswith(_AGENT):
        return argument
    options = dict(
        part[2:].split("=", 1) for part in shlex.split(argument) if part.startswith("--") and "=" in part
    )
    agent = str(_HERE / "lean_agent.py")
    command = [sys.executable, "-I", "-S", agent, options["session-dir"], options["node-id"]]
    return _AGENT + subprocess.list2cmdline(command)
