"""SQLite files that several processes share: how they are opened, and what SQLite's errors mean."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from time import monotonic, sleep

__all__ = ["is_locked", "open_shared"]


def open_shared(path: str | Path, *, timeout: float) -> sqlite3.Connection:
    """A connection, without transactions of its own, to a file in WAL mode: a reader never waits for a writer.

    Args:
        path: the file; made if it was not there.
        timeout: seconds to wait for another's lock, now and at each statement.

    Raises:
        sqlite3.Error: it is locked for longer, or cannot be opened.
    """
    deadline = monotonic() + timeout
    connection = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.Error as error:
            # Of several that turn a new file into WAL mode at once, SQLite refuses some without waiting.
            if not is_locked(error) or monotonic() > deadline:
                connection.close()
                raise
            sleep(0.02)
        else:
            return connection


def is_locked(error: object) -> bool:
    """Whether another process has the file: SQLite's error, or the text of it.

    A process that was suspended while it held the locks of the WAL index causes "locking protocol" instead.
    """
    text = str(error)
    return "lock" in text or "busy" in text
