"""The process that forks the suite's children.

It has imported everything but used nothing: a fork takes milliseconds, no thread holds a lock, and no
connection would be shared. The idle threads of libraries (allocators) do not disturb a fork. Each line of its
input is an order, each line of its output a reply.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from tests.faults.children import ROLES, tune, warm
from tests.faults.setup import Setup

from headrace.kernel import faults


def main(setup: Setup) -> None:
    tune()
    warm()
    pipes: dict[int, int] = {}
    for line in sys.stdin:
        order = json.loads(line)
        match order.pop("do"):
            case "fork":
                reply: Any = fork(setup, pipes, **order)
            case "feed":
                reply = feed(pipes, **order)
            case "reap":
                reply = reap(pipes)
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


def fork(setup: Setup, pipes: dict[int, int], role: str, fault: str | None, arguments: dict[str, Any]) -> int:
    """Forks a child that plays the role; returns its process id."""
    if role == "produce":
        arguments["orders"], write_end = os.pipe()
    child = os.fork()
    if child:
        if role == "produce":
            os.close(arguments["orders"])
            pipes[child] = write_end
        return child
    try:
        os.setpgid(0, 0)
        faulthandler.register(
            signal.SIGUSR2, all_threads=True
        )  # prints the stacks of a child that was awaited in vain
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        for other in [*pipes.values(), *([write_end] if role == "produce" else [])]:
            os.close(other)
        if fault:
            os.environ[faults.VARIABLE] = fault
        ROLES[role](setup, setup.open_journal(), **arguments)
        os._exit(0)
    except BaseException:
        sys.stderr.write(f"--- {role} {os.getpid()}\n{traceback.format_exc()}")
        sys.stderr.flush()
    finally:
        os._exit(1)


def feed(pipes: dict[int, int], pid: int, line: str) -> None:
    """Writes an order to a producer. A dead producer gets none."""
    try:
        os.write(pipes[pid], line.encode())
    except (BrokenPipeError, KeyError):
        return


def reap(pipes: dict[int, int]) -> list[tuple[int, int]]:
    """Collects (pid, wait status) of the children that ended or stopped since the last call."""
    changes = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        except ChildProcessError:
            return changes
        if not pid:
            return changes
        if not os.WIFSTOPPED(status) and pid in pipes:
            os.close(pipes.pop(pid))
        changes.append((pid, status))


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    main(Setup(Path(arguments.pop("disk")), Path(arguments.pop("notes")), **arguments))
