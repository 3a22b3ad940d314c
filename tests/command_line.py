"""The command line in a process of its own, forked from one that has imported it.

Most of the time of a command on a small project is its imports, and a test of many commands would repeat them
for each. So one process imports the engines, uses nothing of them, and forks a process for each command: a fork
takes milliseconds, no thread holds a lock, and no module of a project is loaded. What a command imports, and
how it starts as `headrace`, is tested by new processes (tests/cli/test_main.py, tests/e2e, tests/docs).

As a program it reads an order a line, as JSON, and answers each with the wait status of its process.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["call_headrace"]

ROOT = Path(__file__).parents[1]
SECONDS = 300  # that a command may take
IMPORTED = (
    "headrace.cli.build",
    "headrace.features.feast",
    "headrace.flows.build.context",
    "headrace.flows.build.lost_columns",
    "headrace.flows.build.preview",
    "headrace.flows.build.runner",
    "headrace.flows.project.status",
    "headrace.lake.catalog",
    "headrace.lake.write",
    "headrace.registry.store",
    "headrace.tables.build",
    "headrace.training.recorder",
    "mlflow",
    "scmrepo.git",
    "sqlalchemy.dialects.sqlite",
)


def call_headrace(
    *arguments: str, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command, without input; a command that takes longer than SECONDS is killed by SIGALRM.

    Args:
        arguments: those of `headrace`.
        folder: the working folder; None: that of this process.
        environment: the variables of the command's environment, all of them; None: those of this process.
    """
    with tempfile.TemporaryDirectory() as printed:
        output, errors = Path(printed, "stdout"), Path(printed, "stderr")
        order = {
            "arguments": arguments,
            "folder": str(folder or Path.cwd()),
            "environment": dict(os.environ if environment is None else environment),
            "umask": _read_umask(),
            "streams": [os.devnull, str(output), str(errors)],
        }
        status = _send(json.dumps(order))
        return subprocess.CompletedProcess(
            ["headrace", *arguments], os.waitstatus_to_exitcode(status), output.read_text(), errors.read_text()
        )


def _read_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _send(order: str) -> int:
    server = _start_server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(f"{order}\n")
    server.stdin.flush()
    return int(server.stdout.readline())


@functools.cache
def _start_server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.command_line"],
        cwd=ROOT,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},  # which its import would start
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(_stop_server, server)
    return server


def _stop_server(server: subprocess.Popen[str]) -> None:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.close()
    server.wait(180)
    server.stdout.close()


def serve() -> None:
    """Forks a process for each order that comes."""
    inherited = set(os.environ)
    for name in IMPORTED:
        importlib.import_module(name)
    set_by_imports = {name: value for name, value in os.environ.items() if name not in inherited}
    gc.freeze()  # else a child's garbage collector copies the pages that it shares with its parent
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            order = json.loads(line)
            order["environment"] = {**set_by_imports, **order["environment"]}
            run(**order)
        sys.stdout.write(f"{os.waitpid(child, 0)[1]}\n")
        sys.stdout.flush()


def run(arguments: list[str], folder: str, environment: dict[str, str], umask: int, streams: list[str]) -> None:
    """Runs a command in this process, and ends it as the command ends."""
    from headrace.cli.main import main

    signal.alarm(SECONDS)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in enumerate(streams):
        stream = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(stream, descriptor)
        os.close(stream)
    os.umask(umask)
    sys.argv = ["headrace", *arguments]
    main(arguments)


if __name__ == "__main__":
    serve()
