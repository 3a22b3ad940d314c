"""A sink with a transaction of its own: a SQLite file of the users taken, and how far."""

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
    """Takes good events, once each, from as many workers as there are (headrace.events.ingest.sinks.Sink)."""

    name = "sink"

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE IF NOT EXISTS taken (user INTEGER)")
            db.execute("CREATE TABLE IF NOT EXISTS position (text TEXT)")

    def position(self) -> LogPosition | None:
        with self._open() as db:
            return _position(db)

    def apply(self, good: pa.Table, position: LogPosition) -> None:
        places = zip(good["_log_partition"].to_pylist(), good["_log_offset"].to_pylist(), strict=True)
        users = dict(zip(places, good["user"].to_pylist(), strict=True))
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            stored = _position(db) or LogPosition(position.topic, position.log_id)
            new = [(user,) for place, user in users.items() if not stored.covers(*place)]
            db.executemany("INSERT INTO taken VALUES (?)", new)
            db.execute("DELETE FROM position")
            db.execute("INSERT INTO position VALUES (?)", (encode_position(stored.advance(position.offsets)),))
            reach("sink.written")
            db.execute("COMMIT")
        reach("sink.committed")

    def close(self) -> None:
        """Nothing is open between calls."""

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection for one use: what a full disk did to it ends with it."""
        try:
            with closing(sqlite3.connect(self._path, timeout=1, isolation_level=None)) as db:
                yield db
        except sqlite3.Error as error:
            raise Unavailable(f"the sink cannot be used: {error}") from error


def _position(db: sqlite3.Connection) -> LogPosition | None:
    row = db.execute("SELECT text FROM position").fetchone()
    return None if row is None else decode_position(row[0])  # type: ignore[return-value]
