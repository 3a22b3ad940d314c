"""A lock file that one process holds as long as it lives, with its process id in it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

__all__ = ["find_holder", "take"]


def take(path: Path) -> IO[str] | None:
    """Takes the lock and writes this process's id into the file; None where another process has it.

    It goes with the file that is returned, or with the process.
    """
    while True:
        file = path.open("a+")
        try:
            _lock(file)
        except BlockingIOError:
            file.close()
            return None
        if path.is_file() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            break
        file.close()  # it was taken away, by `clean`, before it was locked
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def find_holder(path: Path) -> str | None:
    """The id of the process that holds the lock ("" where it has not written it yet), or None."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return path.read_text().strip()
    return None


def _lock(file: IO[str]) -> None:
    """Raises BlockingIOError where another process holds it; one that looks (find_holder) does not count."""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # a look shares it, a holder does not
            fcntl.flock(file, fcntl.LOCK_UN)
