"""Sharing a topic of the embedded log: leases in the topic's file (see headrace.log.port.Member).

Every member may hold so many log partitions: all of them divided by the living members, the first to
join get one more where that does not come out even. Who holds more gives the rest up, who holds fewer
takes what is free. So a partition moves only where it must, and is never taken from who lives.

A thread beats for the process as long as its member is asked for its share. Who is dead is seen by the
mark of its process, who hangs by its last beat.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from headrace.kernel.errors import HeadraceError
from headrace.kernel.ids import new_id
from headrace.kernel.process import is_alive, mark_of
from headrace.kernel.time import now_micros

__all__ = ["SqliteMember"]

SESSION = 10.0  # seconds without a beat after which a member's share is free
LONGEST = 300.0  # seconds that it may not ask for its share, before it beats no more
LOOK = 0.5  # seconds between two looks at the others
_logger = logging.getLogger(__name__)

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS member (
        id TEXT PRIMARY KEY,              -- in the order of joining
        of_group TEXT NOT NULL,
        process TEXT NOT NULL,            -- kernel.process.mark
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
        connection: to the topic's file, for this member alone.
        faults: names SQLite's errors.
        group, settle: see Log.join.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        faults: Callable[[], AbstractContextManager[None]],
        group: str,
        settle: Callable[[], None],
    ) -> None:
        self._db = connection
        self._faults = faults
        self._group = group
        self._settle = settle
        self._id = new_id()
        self._process = mark_of()
        self._share: frozenset[int] = frozenset()
        self._asked = time.monotonic()
        self._looked = 0.0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        with self._writing():
            for statement in _SCHEMA:
                self._db.execute(statement)
            self._beat()
        self._thread = threading.Thread(target=self._keep_beating, name=f"member of {group}", daemon=True)
        self._thread.start()

    def partitions(self) -> frozenset[int]:
        self._asked = time.monotonic()
        if self._asked - self._looked < LOOK:
            return self._share
        with self._faults(), self._lock:
            held, share = self._seen()
        if held is None or held != share:
            if held is None or held - share:
                self._settle()
            with self._writing():
                self._bury()
                self._beat()
                _, share = self._seen()
                self._db.execute("DELETE FROM lease WHERE of_group = ? AND member = ?", (self._group, self._id))
                self._db.executemany(
                    "INSERT INTO lease VALUES (?, ?, ?)", [(self._group, one, self._id) for one in share]
                )
        self._share = share
        self._looked = time.monotonic()
        return share

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        try:
            with self._writing():
                self._remove(self._id)
        finally:
            self._db.close()

    def _seen(self) -> tuple[frozenset[int] | None, frozenset[int]]:
        """The log partitions that it holds, and those it should; None where it was taken for dead."""
        rows = self._db.execute(
            "SELECT id, process, beat FROM member WHERE of_group = ? ORDER BY id", (self._group,)
        ).fetchall()
        living = [id_ for id_, process, beat in rows if id_ == self._id or self._lives(process, beat)]
        if self._id not in living:
            return None, frozenset()
        leases = self._db.execute(
            "SELECT p.id, l.member FROM log_partition p LEFT JOIN lease l"
            " ON l.log_partition = p.id AND l.of_group = ? ORDER BY p.id",
            (self._group,),
        ).fetchall()
        held = [one for one, member in leases if member == self._id]
        free = [one for one, member in leases if member not in living]
        whole, rest = divmod(len(leases), len(living))
        quota = whole + (living.index(self._id) < rest)
        return frozenset(held), frozenset((held + free)[:quota])

    def _lives(self, process: str, beat: int) -> bool:
        return now_micros() - beat < SESSION * 1e6 and is_alive(process)

    def _bury(self) -> None:
        """Removes the others of the group that do not live."""
        rows = self._db.execute(
            "SELECT id, process, beat FROM member WHERE of_group = ? AND id <> ?", (self._group, self._id)
        ).fetchall()
        for id_, process, beat in rows:
            if not self._lives(process, beat):
                self._remove(id_)

    def _remove(self, member: str) -> None:
        self._db.execute("DELETE FROM lease WHERE member = ?", (member,))
        self._db.execute("DELETE FROM member WHERE id = ?", (member,))

    def _beat(self) -> None:
        self._db.execute(
            "INSERT INTO member VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET beat = excluded.beat",
            (self._id, self._group, self._process, now_micros()),
        )

    def _keep_beating(self) -> None:
        while not self._closed.wait(SESSION / 3):
            if time.monotonic() - self._asked > LONGEST:
                continue
            try:
                with self._writing():
                    # Not where it was taken for dead: who asks for the share must see that it was lost.
                    self._db.execute("UPDATE member SET beat = ? WHERE id = ?", (now_micros(), self._id))
            except HeadraceError as error:
                _logger.warning("%s", error)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._faults(), self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
