"""SQLite files that several processes share: opens them, runs transactions, and interprets SQLite's errors."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from headrace.kernel.errors import Unavailable
from headrace.kernel.private import NO_PERMISSION

__all__ = ["connect", "is_locked", "name_error", "name_errors", "open_shared", "transaction"]

_DAMAGED = ("malformed", "not a database", "no such table")  # in SQLite's messages
_RESTORE = "Restore a copy of the file."
_OUTAGES = (sqlite3.OperationalError, sqlite3.DatabaseError)  # the other subclasses are errors of our own


class _UnwrittenFile(sqlite3.Connection):
    """Reads a file that nobody should write meanwhile, since SQLite takes no lock on it.

    Attributes:
        path: the file.
        before: its size and times when it was opened.
    """

    path: Path
    before: tuple[int, int, bool]

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        """Raises sqlite3.OperationalError if the file was written meanwhile: two states of it may be mixed."""
        cursor = super().execute(*arguments)
        self._check()
        return cursor

    def close(self) -> None:
        """Raises sqlite3.OperationalError as `execute`: rows are read until now."""
        super().close()
        self._check()

    def _check(self) -> None:
        if _stamp(self.path) != self.before:
            raise sqlite3.OperationalError("another process writes it meanwhile: try again")


def _stamp(path: Path) -> tuple[int, int, bool]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, _journal(path).exists()


def _journal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def connect(path: str | Path, *, timeout: float) -> sqlite3.Connection:
    """Opens a connection that starts no transactions by itself. Threads may share it, one at a time.

    It only reads if this user may not write the file's folder. SQLite cannot make the files there that WAL mode
    needs. If a writer has made them, it reads by them, else it reads the file alone.

    Args:
        path: the file; it is created if it does not exist.
        timeout: seconds to wait for another process's lock at each statement.

    Raises:
        sqlite3.Error: the file cannot be opened.
    """
    path = Path(path).absolute()
    open_file = partial(sqlite3.connect, timeout=timeout, isolation_level=None, check_same_thread=False)
    if os.access(path.parent, os.W_OK) or not path.is_file():
        return open_file(path)
    before = _stamp(path)
    if _journal(path).exists():
        return open_file(f"{path.as_uri()}?mode=ro", uri=True)
    connection = open_file(f"{path.as_uri()}?mode=ro&immutable=1", uri=True, factory=_UnwrittenFile)
    assert isinstance(connection, _UnwrittenFile)
    connection.path, connection.before = path, before
    return connection


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
    connection = connect(path, timeout=timeout)
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


@contextmanager
def transaction(connection: sqlite3.Connection, *, write: bool = True) -> Iterator[None]:
    """Runs the block in a transaction: commits at its end, rolls back if it or the commit fails.

    Args:
        connection: one that starts no transactions by itself.
        write: whether other writers wait until its end.
    """
    connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # on a full disk SQLite may have rolled it back
            connection.execute("ROLLBACK")
        raise


@contextmanager
def name_errors(what: str, where: str | Path, *, restore: str = _RESTORE) -> Iterator[None]:
    """Turns SQLite's errors in the block, and those of its file, into Unavailable with a remedy.

    Args:
        what: what the file is, such as "the lineage store".
        where: the file.
        restore: the remedy if the file is damaged, or is not an SQLite file.
    """
    try:
        yield
    except OSError as error:
        raise _unusable(f"{what} cannot be read or written: {error.strerror}", where) from error
    except sqlite3.DatabaseError as error:
        if type(error) not in _OUTAGES:
            raise
        raise name_error(error, what, where, restore) from error


def name_error(error: sqlite3.Error, what: str, where: str | Path, restore: str = _RESTORE) -> Unavailable:
    """The error that `name_errors` raises for one of SQLite's."""
    text = str(error)
    if is_locked(error):
        return Unavailable(
            f"{what} is locked by another process",
            where=str(where),
            remedy="End the process that has it open (a copy, a database browser?), and try again.",
        )
    if any(sign in text for sign in _DAMAGED):
        return Unavailable(f"{what} is damaged: {text}", where=str(where), remedy=restore)
    if "readonly" in text:
        return Unavailable(f"{what} cannot be written: {text}", where=str(where), remedy=NO_PERMISSION)
    return _unusable(f"{what} cannot be read or written: {text}", where)


def _unusable(what: str, where: str | Path) -> Unavailable:
    return Unavailable(
        what, where=str(where), remedy="Check that the disk has room, and that this user may write there."
    )


def is_locked(error: object) -> bool:
    """Whether an error of SQLite, or its text, says that another process has locked the file.

    A process that was suspended while it held the locks of the WAL index causes "locking protocol" instead.
    """
    text = str(error)
    return "lock" in text or "busy" in text
