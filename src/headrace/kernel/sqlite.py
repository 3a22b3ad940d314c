"""SQLite files that several processes share: opens them, and interprets SQLite's errors."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from time import monotonic, sleep

__all__ = ["is_locked", "open_shared"]


def open_shared(path: str | Path, *, timeout: float) -> sqlite3.Connection:
    """Opens a connection to a file in WAL mode, in which a reader never waits for a writer.

    The connection starts no transactions by itself.

    Args:
        path: the file; it is created if it does not exist.
        timeout: seconds to wait for another process's lock, now and at each statement.

    Raises:
        sqlite3.Error: the file is locked for longer, or cannot be opened.
    """
    deadline = monotonic() + timeout
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.Error as error:
            # If several processes set WAL mode on a new file at once, SQLite refuses some without waiting.
            if not is_locked(error) or monotonic() > deadline:
                connection.close()
                raise
            sleep(0.02)
        else:
            return connection


def is_locked(error: object) -> bool:
    """Whether an error of SQLite, or its text, says that another process has locked the file.

    A process that was suspended while it held the locks of the WAL index causes "locking protocol" instead.
    """
    text = str(error)
    return "lock" in text or "busy" in text
