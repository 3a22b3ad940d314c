"""Calls commands in a folder that may not be written, and tells how each ended.

As a program it calls the commands that come as JSON, one a line, one after the other in this process. For root
the kernel asks for no permission, so the program gives up that right first.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

__all__ = ["Ended", "call_commands", "forbid_writing"]

_PR_CAPBSET_DROP = 24
_RIGHTS_OF_ROOT = (1, 2, 3)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER


class Ended(Struct):
    """How a command ended.

    Attributes:
        command: its words after `headrace`.
        code: its exit code.
        output, errors: what it printed.
    """

    command: str
    code: int
    output: str
    errors: str


@contextlib.contextmanager
def forbid_writing(folder: Path) -> Iterator[None]:
    """Takes away the permission to write the folder and all in it, while the block runs."""
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*")) if not path.is_symlink()}
    try:
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def call_commands(folder: Path, commands: Sequence[str]) -> list[Ended]:
    """Calls the commands in the folder, as a user whom the kernel asks for permissions."""
    process = subprocess.run(
        [sys.executable, __file__],
        cwd=folder,
        input="".join(json.dumps(command) + "\n" for command in commands),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        preexec_fn=_drop_rights if os.geteuid() == 0 else None,
    )
    assert process.returncode == 0, process.stderr
    return [Ended(**json.loads(line)) for line in process.stdout.splitlines()]


def _drop_rights() -> None:
    """Gives up root's rights on files in the program that this process becomes."""
    libc = ctypes.CDLL(None, use_errno=True)
    for right in _RIGHTS_OF_ROOT:
        if libc.prctl(_PR_CAPBSET_DROP, right, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "a right of root cannot be given up")


def serve() -> None:
    """Calls the commands that come."""
    import shlex

    from headrace.cli.main import main

    for line in sys.stdin:
        command = json.loads(line)
        output, errors, code = io.TextIOWrapper(io.BytesIO()), io.StringIO(), 0
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            try:
                main(shlex.split(command))
            except SystemExit as ended:
                code = int(ended.code or 0)
        output.flush()
        printed = output.buffer.getvalue().decode()
        ended_so = {"command": command, "code": code, "output": printed, "errors": errors.getvalue()}
        sys.__stdout__.write(json.dumps(ended_so) + "\n")
        sys.__stdout__.flush()


if __name__ == "__main__":
    serve()
