"""A transactional sink: a SQLite file of the users of the applied events, and the position."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow as pa

from headrace.kernel.errors import Unavailable
from headrace.kernel.faults import reach
from headrace.kernel.position import LogPosition, decode_position, encode_position

__all__ = ["SqliteSink"]


class SqliteSink:
    """Stores each good event once, whichever worker applies it (a headrace.events.ingest.sinks.Sink)."""

    name = "sink"
    is_raw = False

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE IF NOT EXISTS applied (user INTEGER)")
            db.execute("CREATE TABLE IF NOT EXISTS position (text TEXT)")

    def position(self) -> LogPosition | None:
        with self._open() as db:
            return _read_position(db)

    def apply(self, events: pa.Table, position: LogPosition) -> None:
        places = zip(events["_log_partition"].to_pylist(), events["_log_offset"].to_pylist(), strict=True)
        users = dict(zip(places, events["user"].to_pylist(), strict=True))
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            stored = _read_position(db) or LogPosition(position.topic, position.log_id)
            new = [(user,) for place, user in users.items() if not stored.covers(*place)]
            db.executemany("INSERT INTO applied VALUES (?)", new)
            db.execute("DELETE FROM position")
            db.execute("INSERT INTO position VALUES (?)", (encode_position(stored.advance(position.offsets)),))
            reach("sink.written")
            db.execute("COMMIT")
        reach("sink.committed")

    def close(self) -> None:
        """Nothing is open between calls."""

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection for one use, so that an error of a full disk does not outlive it."""
        try:
            with closing(sqlite3.connect(self._path, timeout=1, isolation_level=None)) as db:
                yield db
        except sqlite3.Error as error:
            raise Unavailable(f"the sink cannot be used: {error}") from error


def _read_position(db: sqlite3.Connection) -> LogPosition | None:
    row = db.execute("SELECT text FROM position").fetchone()
    return None if row is None else decode_position(row[0])  # type: ignore[return-value]
