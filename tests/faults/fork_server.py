"""A process that forks the suite's children.

It is warm (everything is imported) but has used nothing, so that a fork costs milliseconds and meets
no lock that a thread holds, nor a connection that two would share. Libraries' own idle threads
(allocators') are safe to fork beside. Each line of its input is an order, each of its output a reply.
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
    feeds: dict[int, int] = {}
    for line in sys.stdin:
        order = json.loads(line)
        match order.pop("do"):
            case "fork":
                reply: Any = fork(setup, feeds, **order)
            case "feed":
                reply = feed(feeds, **order)
            case "reap":
                reply = reap(feeds)
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


def fork(setup: Setup, feeds: dict[int, int], role: str, fault: str | None, given: dict[str, Any]) -> int:
    """The child that plays the role."""
    if role == "produce":
        given["orders"], feeding = os.pipe()
    child = os.fork()
    if child:
        if role == "produce":
            os.close(given["orders"])
            feeds[child] = feeding
        return child
    try:
        os.setpgid(0, 0)
        faulthandler.register(signal.SIGUSR2, all_threads=True)  # where it is, for whoever waits in vain
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        for other in [*feeds.values(), *([feeding] if role == "produce" else [])]:
            os.close(other)
        if fault:
            os.environ[faults.VARIABLE] = fault
        ROLES[role](setup, setup.journal(), **given)
        os._exit(0)
    except BaseException:
        sys.stderr.write(f"--- {role} {os.getpid()}\n{traceback.format_exc()}")
        sys.stderr.flush()
    finally:
        os._exit(1)


def feed(feeds: dict[int, int], pid: int, line: str) -> None:
    """Orders to a producer; one that is dead does not hear them."""
    try:
        os.write(feeds[pid], line.encode())
    except (BrokenPipeError, KeyError):
        return


def reap(feeds: dict[int, int]) -> list[tuple[int, int]]:
    """(pid, wait status) of the children that have ended or were stopped since the last time."""
    found = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        except ChildProcessError:
            return found
        if not pid:
            return found
        if not os.WIFSTOPPED(status) and pid in feeds:
            os.close(feeds.pop(pid))
        found.append((pid, status))


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    main(Setup(Path(given.pop("disk")), Path(given.pop("notes")), **given))
