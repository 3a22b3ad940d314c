"""A sink with a transaction of its own: a SQLite file of the users taken, and how far."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from headrace.kernel.errors import Unavailable
from headrace.kernel.faults import reach
from headrace.kernel.position import LogPosition, decode_position, encode_position

__all__ = ["Shelf"]


class Shelf:
    """Takes good events, once each, from as many workers as there are (see headrace.events.sinks.Sink)."""

    name = "shelf"

    def __init__(self, path: Path) -> None:
        with _told():
            self._db = sqlite3.connect(path, timeout=1, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("CREATE TABLE IF NOT EXISTS taken (user INTEGER)")
            self._db.execute("CREATE TABLE IF NOT EXISTS position (text TEXT)")

    def position(self) -> LogPosition | None:
        with _told():
            row = self._db.execute("SELECT text FROM position").fetchone()
        return None if row is None else decode_position(row[0])  # type: ignore[return-value]

    def apply(self, good: pa.Table, position: LogPosition) -> None:
        places = zip(good["_log_partition"].to_pylist(), good["_log_offset"].to_pylist(), strict=True)
        users = dict(zip(places, good["user"].to_pylist(), strict=True))
        with _told():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                stored = self.position() or LogPosition(position.topic, position.log_id)
                new = [(user,) for place, user in users.items() if not stored.covers(*place)]
                self._db.executemany("INSERT INTO taken VALUES (?)", new)
                self._db.execute("DELETE FROM position")
                self._db.execute(
                    "INSERT INTO position VALUES (?)", (encode_position(stored.further(position.offsets)),)
                )
                reach("sink.written")
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        reach("sink.committed")

    def close(self) -> None:
        self._db.close()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise Unavailable(f"the shelf cannot be used: {error}") from error
