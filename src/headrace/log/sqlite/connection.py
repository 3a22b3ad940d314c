"""Connections to the file of a topic, and SQLite's errors as Unavailable with a remedy."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from headrace.kernel.errors import Unavailable
from headrace.kernel.sqlite import is_locked

__all__ = ["connect", "name_errors"]

BUSY_SECONDS = 30  # how long a connection waits for another process's lock


def connect(path: Path) -> sqlite3.Connection:
    """Opens a connection to an existing topic's file, whose commits are durable.

    Several threads may use it, one at a time: the caller holds a lock.
    """
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


@contextmanager
def name_errors(path: Path) -> Iterator[None]:
    """Turns SQLite's errors in the block into Unavailable, with a remedy."""
    try:
        yield
    except msgspec.DecodeError as error:
        raise _damage(path, str(error)) from error
    except sqlite3.DatabaseError as error:
        text = str(error)
        if is_locked(text):
            raise Unavailable(
                f"another process has had the topic's file locked for {BUSY_SECONDS} s",
                where=str(path),
                remedy="End the process that locks it (fuser shows which), then try again.",
            ) from error
        if "malformed" in text or "not a database" in text or "no such table" in text:
            raise _damage(path, text) from error
        raise Unavailable(
            f"the topic's file cannot be used: {text}",
            where=str(path),
            remedy="Check the disk's free space and the file's permissions.",
        ) from error


def _damage(path: Path, error: str) -> Unavailable:
    return Unavailable(
        f"the topic's file is damaged: {error}",
        where=str(path),
        remedy="Restore a copy of it. Or move it away: the topic then starts empty; its table keeps its rows.",
    )
