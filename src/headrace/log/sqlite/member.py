"""Shares a topic of the embedded log, by leases in the topic's file (see headrace.log.port.Member).

The log partitions are divided evenly among the living members; if the division leaves a remainder, the members
that joined first get one more each. A member that holds more than its part releases the excess; a member that
holds less takes free ones. So a partition moves only if it must, and never from a living member that may keep
it.

A thread renews the member's heartbeat as long as the process reads its share. A dead member is recognized by
the mark of its process, a hung member by its last heartbeat.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.kernel.errors import HeadraceError
from headrace.kernel.ids import new_id
from headrace.kernel.process import is_alive, mark_of
from headrace.kernel.sqlite import transaction
from headrace.kernel.uptime import uptime_micros
from headrace.log.sqlite.connection import name_errors

__all__ = ["SqliteMember"]

SESSION_SECONDS = 10.0  # a member's share is free this long after its last heartbeat
LONGEST_SECONDS = 300.0  # heartbeats stop this long after the last call of `partitions`
REFRESH_SECONDS = 0.5  # between two checks of the other members
_logger = logging.getLogger(__name__)

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS member (
        id TEXT PRIMARY KEY,              -- in the order of joining
        of_group TEXT NOT NULL,
        process TEXT NOT NULL,            -- kernel.process.mark_of
        beat INTEGER NOT NULL             -- microseconds since 1970
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS lease (
        of_group TEXT NOT NULL,
        log_partition INTEGER NOT NULL,
        member TEXT NOT NULL,
        PRIMARY KEY (of_group, log_partition)
    ) WITHOUT ROWID""",
)


class SqliteMember:
    """One member. One thread at a time may use it.

    Args:
        connection: a connection to the topic's file, for this member alone.
        path: the topic's file.
        group, settle: see Log.join.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: Path, group: str, settle: Callable[[], None]
    ) -> None:
        self._db = connection
        self._path = path
        self._group = group
        self._settle = settle
        self._id = new_id()
        self._process = mark_of()
        self._share: frozenset[int] = frozenset()
        self._called = time.monotonic()  # the last call of `partitions`
        self._refreshed = 0.0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        with self._write():
            for statement in _SCHEMA:
                self._db.execute(statement)
            self._beat()
        self._thread = threading.Thread(target=self._keep_beating, name=f"member of {group}", daemon=True)
        self._thread.start()

    def partitions(self) -> frozenset[int]:
        self._called = time.monotonic()
        if self._called - self._refreshed < REFRESH_SECONDS:
            return self._share
        with name_errors(self._path), self._lock:
            leased, share = self._divide()
        if leased is None or leased != share:
            if leased is None or leased - share:
                self._settle()
            with self._write():
                self._remove_dead()
                self._beat()
                _, share = self._divide()
                self._db.execute("DELETE FROM lease WHERE of_group = ? AND member = ?", (self._group, self._id))
                self._db.executemany(
                    "INSERT INTO lease VALUES (?, ?, ?)",
                    [(self._group, partition, self._id) for partition in share],
                )
        self._share = share
        self._refreshed = time.monotonic()
        return share

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        try:
            with self._write():
                self._remove(self._id)
        finally:
            self._db.close()

    def _divide(self) -> tuple[frozenset[int] | None, frozenset[int]]:
        """The log partitions that this member has leased, and those it should have.

        The first is None, and the second empty, if the others have removed this member as dead.
        """
        rows = self._db.execute(
            "SELECT id, process, beat FROM member WHERE of_group = ? ORDER BY id", (self._group,)
        ).fetchall()
        living = [id_ for id_, process, beat in rows if id_ == self._id or _is_alive(process, beat)]
        if self._id not in living:
            return None, frozenset()
        leases = self._db.execute(
            "SELECT p.id, l.member FROM log_partition p LEFT JOIN lease l"
            " ON l.log_partition = p.id AND l.of_group = ? ORDER BY p.id",
            (self._group,),
        ).fetchall()
        leased = [partition for partition, member in leases if member == self._id]
        free = [partition for partition, member in leases if member not in living]
        each, remainder = divmod(len(leases), len(living))
        quota = each + (living.index(self._id) < remainder)
        return frozenset(leased), frozenset((leased + free)[:quota])

    def _remove_dead(self) -> None:
        """Removes the other members of the group that are dead or hung."""
        rows = self._db.execute(
            "SELECT id, process, beat FROM member WHERE of_group = ? AND id <> ?", (self._group, self._id)
        ).fetchall()
        for id_, process, beat in rows:
            if not _is_alive(process, beat):
                self._remove(id_)

    def _remove(self, member: str) -> None:
        self._db.execute("DELETE FROM lease WHERE member = ?", (member,))
        self._db.execute("DELETE FROM member WHERE id = ?", (member,))

    def _beat(self) -> None:
        self._db.execute(
            "INSERT INTO member VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET beat = excluded.beat",
            (self._id, self._group, self._process, uptime_micros()),
        )

    def _keep_beating(self) -> None:
        while not self._closed.wait(SESSION_SECONDS / 3):
            if time.monotonic() - self._called > LONGEST_SECONDS:
                continue
            try:
                with self._write():
                    # No row is inserted: a member that was removed as dead must notice that it lost its share.
                    self._db.execute("UPDATE member SET beat = ? WHERE id = ?", (uptime_micros(), self._id))
            except HeadraceError as error:
                _logger.warning("%s", error)

    @contextmanager
    def _write(self) -> Iterator[None]:
        with name_errors(self._path), self._lock, transaction(self._db):
            yield


def _is_alive(process: str, beat: int) -> bool:
    return uptime_micros() - beat < SESSION_SECONDS * 1e6 and is_alive(process)
