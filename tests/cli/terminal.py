"""Runs a command on a pseudo terminal, and says what the terminal shows."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

__all__ = ["render", "run_on_terminal"]

CONTROLS = re.compile(r"\x1b\[[AK]|\x1b\[[0-9;]*m|.", re.DOTALL)


def run_on_terminal(
    command: Sequence[str | Path], folder: Path, columns: int = 100, **environment: str
) -> tuple[int, str]:
    """The exit code of a command, and all that it writes to its terminal."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, **environment}, stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    written = bytearray()
    try:
        while part := read_part(leader, process):
            written += part
    finally:
        os.close(leader)
    return process.wait(180), written.decode()


def read_part(leader: int, process: subprocess.Popen[bytes]) -> bytes:
    """The next bytes; none when the process has ended and all that it wrote is read. A process that it started
    and that outlives it may have the terminal open still."""
    while True:
        has_ended = process.poll() is not None
        if select.select([leader], [], [], 0 if has_ended else 0.2)[0]:
            try:
                return os.read(leader, 65536)
            except OSError:  # so Linux says that nobody has the terminal open any more
                return b""
        if has_ended:
            return b""


def render(written: str, columns: int = 100) -> list[str]:
    """The lines that a terminal shows after all of it was written."""
    lines, row, column = [""], 0, 0
    for control in CONTROLS.findall(written):
        if control == "\r":
            column = 0
        elif control == "\n":
            row, column = row + 1, 0
        elif control == "\x1b[K":
            lines[row] = lines[row][:column]
        elif control == "\x1b[A":
            row = max(row - 1, 0)
        elif not control.startswith("\x1b"):
            if column == columns:
                row, column = row + 1, 0
                lines.extend([""] * (row + 1 - len(lines)))
            lines[row] = f"{lines[row][:column]:<{column}}{control}{lines[row][column + 1 :]}"
            column += 1
        lines.extend([""] * (row + 1 - len(lines)))
    return lines


if __name__ == "__main__":  # FILE COMMAND...: writes to the file what the command writes to its terminal
    code, text = run_on_terminal(sys.argv[2:], Path.cwd())
    Path(sys.argv[1]).write_bytes(text.encode())
    if code:
        sys.stderr.write(text)
    sys.exit(code)
