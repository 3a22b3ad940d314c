"""Writes to a topic's file. Threads that append at the same time share one transaction, and so one wait for the
disk."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import count
from pathlib import Path
from time import monotonic

from headrace.kernel.errors import NotAppended, Unavailable
from headrace.kernel.sqlite import transaction
from headrace.kernel.time import now_micros
from headrace.kernel.uptime import SteadyClock, boot_id, uptime_micros
from headrace.log.partition import partition_of
from headrace.log.port import OVERHEAD, Headers
from headrace.log.sqlite.chunks import SHIFT, encode, split
from headrace.log.sqlite.connection import connect, name_errors

__all__ = ["SqliteWriter"]

RETENTION_SECONDS = 1.0  # how often an append looks for records past the topic's retention
RETENTION_CHUNKS = 500  # the most chunks of a log partition that it then deletes


class _Append:
    """One caller's records, and the outcome of their append."""

    def __init__(
        self,
        values: Sequence[bytes],
        keys: Sequence[bytes | None],
        headers: Sequence[Headers | None],
        sizes: Sequence[int],
    ) -> None:
        self.values, self.keys, self.headers, self.sizes = values, keys, headers, sizes
        self.positions: list[tuple[int, int]] = []
        self.error: Exception | None = None
        self.is_done = False


class SqliteWriter:
    """The only connection of this process that writes to a topic's file. Any thread may use it."""

    def __init__(self, path: Path) -> None:
        """Raises Unavailable if the file cannot be opened."""
        self._path = path
        self._waiting: list[_Append] = []
        self._queue = threading.Lock()
        self._lock = threading.Lock()
        self._turn = count()
        self._next_deletion = 0.0
        with name_errors(path):
            self._db = connect(path)
            self._add_retention()

    @property
    def largest(self) -> int:
        """How many bytes a record may have: a chunk with this record alone must fit in a row."""
        return self._db.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) - OVERHEAD

    def append(
        self,
        values: Sequence[bytes],
        keys: Sequence[bytes | None] | None,
        headers: Sequence[Headers | None] | None,
        sizes: Sequence[int],
    ) -> list[tuple[int, int]]:
        """Appends the records in one transaction; returns their (log partition, offset) (Log.append)."""
        nothing: list[None] = [None] * len(values)
        append = _Append(values, keys or nothing, headers or nothing, sizes)
        with self._queue:
            self._waiting.append(append)
        with self._lock:  # the first thread here writes for all that wait
            if not append.is_done:
                with self._queue:
                    group, self._waiting = self._waiting, []
                self._commit(group)
        if append.error is not None:
            raise append.error
        return append.positions

    def set_retention(self, retention: timedelta) -> None:
        """Sets how long records are kept at least; appends then delete older records."""
        micros = retention // timedelta(microseconds=1)
        with name_errors(self._path), self._lock, transaction(self._db):
            self._db.execute("UPDATE topic SET retention = ?", (micros,))

    def trim(self, offsets: Mapping[int, int]) -> None:
        """Deletes the records before these offsets, in whole chunks."""
        with name_errors(self._path), self._lock, transaction(self._db):
            for partition, before in offsets.items():
                self._delete(partition, before)

    def close(self) -> None:
        """Closes the connection after the write in progress."""
        with self._lock:
            self._db.close()

    def _add_retention(self) -> None:
        """Adds the column `retention` to a file of an older version."""
        has_column = "SELECT 1 FROM pragma_table_info('topic') WHERE name = 'retention'"
        if self._db.execute(has_column).fetchone() is None:
            with transaction(self._db):
                if self._db.execute(has_column).fetchone() is None:  # no other process was first
                    self._db.execute("ALTER TABLE topic ADD COLUMN retention INTEGER")

    def _commit(self, group: list[_Append]) -> None:
        error: Exception | None = None
        is_written = False
        try:
            with name_errors(self._path), transaction(self._db):
                ends = dict(self._db.execute("SELECT id, next_offset FROM log_partition"))
                arrived_at = now_micros()
                rows = [row for append in group for row in self._rows(append, ends, arrived_at)]
                self._db.executemany("INSERT INTO chunk VALUES (?, ?, ?, ?)", rows)
                self._db.executemany(
                    "UPDATE log_partition SET next_offset = ? WHERE id = ?",
                    [(offset, partition) for partition, offset in ends.items()],
                )
                self._delete_old(ends)
                is_written = True  # only the commit may fail now
        except Exception as raised:
            error = raised  # raised again in each caller's thread
            if isinstance(raised, Unavailable) and not is_written:
                error = NotAppended(raised.what, where=raised.where, remedy=raised.remedy)
        for append in group:
            append.error, append.is_done = error, True

    def _rows(
        self, append: _Append, ends: dict[int, int], arrived_at: int
    ) -> Iterator[tuple[int, int, int, bytes]]:
        """The rows of table `chunk` for one append; its offsets begin at `ends`, which it advances."""
        positions: list[tuple[int, int]] = [(0, 0)] * len(append.values)
        for partition, places in self._divide(append, len(ends)).items():
            for run in split(places, append.sizes):
                first = ends[partition]
                ends[partition] = first + len(run)
                for offset, place in enumerate(run, first):
                    positions[place] = (partition, offset)
                body = encode(append.values, append.keys, append.headers, run)
                yield (partition << SHIFT) + first, len(run), arrived_at, body
        append.positions = positions

    def _divide(self, append: _Append, partitions: int) -> Mapping[int, Sequence[int]]:
        """Log partition → the places of its records."""
        keyless = next(self._turn) % partitions
        if partitions == 1:
            return {0: range(len(append.values))}
        places: dict[int, list[int]] = {}
        for place, key in enumerate(append.keys):
            partition = keyless if key is None else partition_of(key, partitions)
            places.setdefault(partition, []).append(place)
        return places

    def _delete_old(self, partitions: Iterable[int]) -> None:
        """Deletes chunks past the retention by the file's steady clock, the oldest first."""
        (retention,) = self._db.execute("SELECT retention FROM topic").fetchone()
        if retention is None or monotonic() < self._next_deletion:
            return
        self._next_deletion = monotonic() + RETENTION_SECONDS
        now = self._steady_now()
        for partition in partitions:
            low = partition << SHIFT
            before = None
            oldest = self._db.execute(
                "SELECT id, records, arrived_at FROM chunk WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
                (low, (partition + 1) << SHIFT, RETENTION_CHUNKS),
            )
            for id_, records, arrived_at in oldest:
                if arrived_at >= now - retention:
                    break
                before = id_ + records - low
            if before is not None:
                self._delete(partition, before)

    def _steady_now(self) -> int:
        """The steady clock of all processes that have written to the file since the machine started."""
        self._db.execute("CREATE TABLE IF NOT EXISTS clock (boot TEXT, started INTEGER, ahead_since INTEGER)")
        boot = boot_id()
        state = self._db.execute("SELECT started, ahead_since FROM clock WHERE boot = ?", (boot,)).fetchone()
        clock = SteadyClock(now_micros, uptime_micros, state)
        now = clock.now()
        self._db.execute("DELETE FROM clock")
        self._db.execute("INSERT INTO clock VALUES (?, ?, ?)", (boot, *clock.state))
        return now

    def _delete(self, partition: int, before: int) -> None:
        """Deletes the chunks that end before an offset, and moves the start of the log partition."""
        low = partition << SHIFT
        self._db.execute(
            "DELETE FROM chunk WHERE id >= :low AND id + records <= :before AND id < :before",
            {"low": low, "before": low + before},
        )
        self._db.execute(
            "UPDATE log_partition SET first_offset = coalesce((SELECT min(id) - :low FROM chunk"
            " WHERE id >= :low AND id < :high), next_offset) WHERE id = :partition",
            {"partition": partition, "low": low, "high": (partition + 1) << SHIFT},
        )
