"""The topics of the embedded log: a folder with one SQLite file for each topic."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import threading
from collections.abc import Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from headrace.kernel.errors import CallError, Unavailable
from headrace.kernel.faults import reach
from headrace.kernel.files import create_draft, remove_dead_drafts, sync_folder
from headrace.kernel.ids import new_id
from headrace.kernel.private import make_private
from headrace.log.port import check_partitions, missing_topic
from headrace.log.sqlite.connection import name_errors
from headrace.log.sqlite.reader import SqliteReader
from headrace.log.sqlite.writer import SqliteWriter

__all__ = ["SqliteTopic", "SqliteTopics"]

# Kafka's rule, without a leading dot, because the name is also a file's.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}")

_SCHEMA = """
CREATE TABLE topic (identity TEXT NOT NULL, retention INTEGER);  -- microseconds; null: forever
CREATE TABLE log_partition (
    id INTEGER PRIMARY KEY,
    first_offset INTEGER NOT NULL,
    next_offset INTEGER NOT NULL
);
CREATE TABLE chunk (
    id INTEGER PRIMARY KEY,           -- log partition * 2^48 + offset of its first record
    records INTEGER NOT NULL,
    arrived_at INTEGER NOT NULL,      -- microseconds since 1970
    body BLOB NOT NULL                -- msgpack: [values, keys or nil, headers or nil]
);
"""


class SqliteTopic:
    """One topic's file, open.

    Attributes:
        path: the file.
        writer, reader: its connections.
        identity: the topic's identity (Log.identity).
        appended: notified after each append of this process.
    """

    def __init__(self, path: Path) -> None:
        """Raises Unavailable if the file cannot be opened or is damaged."""
        self.path = path
        self.appended = threading.Condition()
        with name_errors(path):
            self._inode = path.stat().st_ino
        self.writer = SqliteWriter(path)
        self.reader = SqliteReader(path)
        self.identity = self.reader.identity()

    def is_current(self) -> bool:
        """Whether the open file is still the one at its path."""
        try:
            return self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Closes the connections."""
        self.writer.close()
        self.reader.close()


class SqliteTopics:
    """The topics in a folder. Its methods implement those of Log."""

    def __init__(self, folder: Path) -> None:
        """Creates the folder if it does not exist. If this user may not, it has no topics.

        Raises:
            Unavailable: it cannot be created for another reason, or is not readable.
        """
        self._folder = folder
        self._open: dict[str, SqliteTopic] = {}
        self._lock = threading.Lock()
        self._make_folder(must_exist=False)

    def _make_folder(self, *, must_exist: bool = True) -> None:
        try:
            make_private(self._folder)
            remove_dead_drafts(self._folder)
        except OSError as error:
            may_not_write = error.errno in (errno.EACCES, errno.EROFS)
            if not must_exist and may_not_write and _is_missing(self._folder):
                return
            raise Unavailable(
                f"the log's folder cannot be created: {error.strerror}",
                where=str(self._folder),
                remedy="Create it, or give this user the permission to.",
            ) from error

    def create(self, topic: str, partitions: int, retention: timedelta | None) -> None:
        """Creates the topic unless it exists (Log.create)."""
        if not _NAME.fullmatch(topic):
            raise CallError(
                f"{topic!r} is not a valid topic name",
                remedy="Use letters, digits, '.', '_' and '-', at most 200, and no dot at the beginning.",
            )
        check_partitions(topic, partitions)
        path = self._path(topic)
        if not path.exists():
            self._make_folder()
            with name_errors(path):
                _create_file(path, partitions)
        if retention is not None and retention != self.retention(topic):
            self.open(topic).writer.set_retention(retention)

    def names(self) -> list[str]:
        """The names of all topics, sorted."""
        return sorted(path.name.removesuffix(".db") for path in self._folder.glob("[!.]*.db"))

    def identity(self, topic: str) -> str:
        """An id that distinguishes this topic from a later topic of the same name (Log.identity)."""
        return self.open(topic).identity

    def partitions(self, topic: str) -> int:
        """The number of log partitions (Log.partitions)."""
        return len(self.open(topic).reader.bounds())

    def retention(self, topic: str) -> timedelta | None:
        """How long records are kept at least (Log.retention)."""
        return self.open(topic).reader.retention()

    def start(self, topic: str) -> dict[int, int]:
        """Log partition → first offset that is kept (Log.start)."""
        return {partition: first for partition, (first, _) in self.open(topic).reader.bounds().items()}

    def end(self, topic: str) -> dict[int, int]:
        """Log partition → next offset to be written (Log.end)."""
        return {partition: end for partition, (_, end) in self.open(topic).reader.bounds().items()}

    def trim(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Deletes the records before these offsets (Log.trim)."""
        self.open(topic).writer.trim(offsets)

    def open(self, topic: str) -> SqliteTopic:
        """Opens the topic's file, or returns it if it is open.

        Raises:
            CallError: the topic does not exist.
            Unavailable: its file cannot be opened or is damaged.
        """
        with self._lock:
            file = self._open.get(topic)
            if file is not None and not file.is_current():
                self._open.pop(topic).close()  # it was deleted, and perhaps created again
                file = None
            if file is None:
                path = self._path(topic)
                if not (_NAME.fullmatch(topic) and path.exists()):
                    raise missing_topic(topic, str(self._folder), self.names())
                file = self._open[topic] = SqliteTopic(path)
            return file

    def close(self) -> None:
        """Closes every file."""
        with self._lock:
            for file in self._open.values():
                file.close()
            self._open.clear()

    def _path(self, topic: str) -> Path:
        return self._folder / f"{topic}.db"


def _is_missing(folder: Path) -> bool:
    """Whether the folder does not exist. One in a folder that this user may not enter may exist."""
    try:
        folder.stat()
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return False


def _create_file(path: Path, partitions: int) -> None:
    """Creates the file under a draft name and then links it, so that no process sees half a topic."""
    draft, lock = create_draft(path, mode=0o600)
    try:
        with closing(sqlite3.connect(draft)) as db:
            db.executescript(_SCHEMA)
            db.execute("INSERT INTO topic (identity) VALUES (?)", (new_id(),))
            db.executemany("INSERT INTO log_partition VALUES (?, 0, 0)", [(p,) for p in range(partitions)])
            db.commit()
            db.execute("PRAGMA journal_mode = WAL")
        reach("log.before_topic")
        try:
            os.link(draft, path)
        except FileExistsError:
            return  # another process created the topic first
    finally:
        draft.unlink(missing_ok=True)
        os.close(lock)
    sync_folder(path.parent)
