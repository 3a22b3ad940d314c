"""Connections to the file of a topic, and SQLite's errors as Unavailable with a remedy."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from headrace.kernel import sqlite as kernel
from headrace.kernel.errors import Unavailable

__all__ = ["connect", "name_errors"]

_WHAT = "the topic's file"
_RESTORE = "Restore a copy of it. Or move it away: the topic then starts empty; its table keeps its rows."
BUSY_SECONDS = 30  # how long a connection waits for another process's lock


def connect(path: Path) -> sqlite3.Connection:
    """Opens a connection to an existing topic's file, whose commits are durable.

    Several threads may use it, one at a time: the caller holds a lock.
    """
    connection = kernel.connect(path, timeout=BUSY_SECONDS)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


@contextmanager
def name_errors(path: Path) -> Iterator[None]:
    """Turns SQLite's errors in the block into Unavailable, with a remedy."""
    try:
        with kernel.name_errors(_WHAT, path, restore=_RESTORE):
            yield
    except msgspec.DecodeError as error:
        raise Unavailable(f"{_WHAT} is damaged: {error}", where=str(path), remedy=_RESTORE) from error
