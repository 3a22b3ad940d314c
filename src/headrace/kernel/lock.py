"""Lock files: a process holds a lock at most as long as it lives, with its process id in the file.

The kernel releases a lock when its process ends, however it ends. Any process can read who holds a lock without
taking it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["find_holder", "hold_lock", "share_lock_open", "try_lock", "try_lock_open"]


def try_lock(path: Path) -> IO[str] | None:
    """Takes the lock and writes this process's id into the file; None if another process has the lock.

    The lock is held until the returned file is closed. The folder must exist.

    Raises:
        OSError: the file cannot be created or written.
    """
    return _take(path, fcntl.LOCK_NB)


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Waits for the lock, and holds it while the block runs. Raises OSError as `try_lock`."""
    file = _take(path, 0)
    assert file is not None
    with file:
        yield


def try_lock_open(descriptor: int) -> bool:
    """Locks an open file until it is closed; False if another process has the lock. Writes nothing into it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def share_lock_open(descriptor: int) -> None:
    """Shares the lock of an open file with other processes until it is closed, once no process has it alone."""
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def find_holder(path: Path) -> str | None:
    """Finds the id of the process that holds the lock ("" if it is not written yet); None: the lock is free."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return path.read_text().strip()
    return None


def _take(path: Path, wait: int) -> IO[str] | None:
    while True:
        file = path.open("a+")
        try:
            _lock(file, wait)
        except BlockingIOError:
            file.close()
            return None
        except BaseException:
            file.close()
            raise
        if path.is_file() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            break
        file.close()  # `headrace clean` removed the file before it was locked
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _lock(file: IO[str], wait: int) -> None:
    """Locks the file. Raises BlockingIOError if another process holds the lock and `wait` is LOCK_NB.

    A process that only reads the holder (find_holder) shares the lock for a moment, which does not count.
    """
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | wait)
            return
        except BlockingIOError:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # raises if another process holds the lock
            fcntl.flock(file, fcntl.LOCK_UN)
