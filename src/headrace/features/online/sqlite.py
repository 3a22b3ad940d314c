"""The online store in one SQLite file: a row for each entity, a packed column for each view.

A table holds the entities of one set of join keys. A view's column is named by its digest, so that the views of
two plans can be live side by side. Writers take turns; readers see a whole transaction or none of it.
"""

# ruff: noqa: S608  (the names in statements are digests made here)

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from headrace.features.online.database import StateRow, StatesOf
from headrace.features.online.entity_store import EntityStore
from headrace.features.online.keys import Key, KeySchema
from headrace.features.plan import StoredView
from headrace.kernel.errors import Unavailable
from headrace.kernel.position import Position, decode_position, encode_position
from headrace.kernel.private import make_private
from headrace.kernel.sqlite import open_shared
from headrace.kernel.time import now_micros

__all__ = ["SqliteDatabase", "open_sqlite"]

_CHUNK = 500  # keys in one statement
_WAIT = 60.0  # seconds to wait for another writer's transaction
_TYPES = {"int64": "integer", "string": "text", "bytes": "blob"}
_SCHEMA = """
create table if not exists views (
    digest text primary key,
    entities text not null,      -- the table of its entities
    keys text not null,          -- JSON: its KeySchema
    view text not null,          -- JSON
    position text                -- JSON; null: not filled
) without rowid;
"""
_decode_view = msgspec.json.Decoder(StoredView).decode
_decode_keys = msgspec.json.Decoder(KeySchema).decode


def open_sqlite(path: str | Path, *, clock: Callable[[], int] = now_micros) -> EntityStore:
    """Opens the online store in this file, or creates it with the folders above it.

    Args:
        path: the file.
        clock: the wall clock, microseconds.

    Raises:
        Unavailable: the file cannot be opened or another process keeps it locked.
    """
    return EntityStore(SqliteDatabase(path), clock=clock)


class SqliteDatabase:
    """See features.online.database.StateDatabase.

    Args:
        path: the file; created with the folders above it.

    Raises:
        Unavailable: the file cannot be opened or another process keeps it locked.
    """

    def __init__(self, path: str | Path) -> None:
        self.where = str(path)
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        make_private(Path(path).parent)
        with self.writing():
            self._db().execute(_SCHEMA)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """See StateDatabase."""
        db = self._db()
        try:
            db.execute("begin immediate")
        except sqlite3.OperationalError as error:
            raise Unavailable(
                f"the online store is locked: {error}",
                where=self.where,
                remedy="Another process has been writing to it for a minute. Try again when it has finished.",
            ) from error
        try:
            yield
        except BaseException:
            db.execute("rollback")
            raise
        db.execute("commit")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """See StateDatabase."""
        db = self._db()
        db.execute("begin")
        try:
            yield
        finally:
            db.execute("commit")

    def add_view(self, view: StoredView, keys: KeySchema) -> None:
        """See StateDatabase."""
        db, table, column = self._db(), f"entities_{keys.digest}", _column(view)
        db.execute(f"create table if not exists {table} (key {_TYPES[keys.kind]} primary key)")
        if column not in {row[1] for row in db.execute(f"pragma table_info({table})")}:
            db.execute(f"alter table {table} add column {column} blob")
        texts = [msgspec.json.encode(value).decode() for value in (keys, view)]
        db.execute(
            "insert or ignore into views (digest, entities, keys, view) values (?, ?, ?, ?)",
            (view.digest, table, *texts),
        )

    def drop_view(self, digest: str) -> None:
        """See StateDatabase."""
        db = self._db()
        row = db.execute("delete from views where digest = ? returning entities", (digest,)).fetchone()
        if row is not None:
            db.execute(f"alter table {row[0]} drop column v_{digest}")

    def views(self) -> list[StoredView]:
        """See StateDatabase."""
        rows = self._db().execute("select view from views order by digest").fetchall()
        return [_decode_view(text) for (text,) in rows]

    def keys_of(self, view: StoredView) -> KeySchema | None:
        """See StateDatabase."""
        row = self._db().execute("select keys from views where digest = ?", (view.digest,)).fetchone()
        return None if row is None else _decode_keys(row[0])

    def position(self, view: StoredView) -> Position | None:
        """See StateDatabase."""
        row = self._db().execute("select position from views where digest = ?", (view.digest,)).fetchone()
        return None if row is None or row[0] is None else decode_position(row[0])

    def set_position(self, view: StoredView, position: Position) -> None:
        """See StateDatabase."""
        text = encode_position(position)
        self._db().execute("update views set position = ? where digest = ?", (text, view.digest))

    def select_states(self, keys: KeySchema, views: Sequence[StoredView]) -> StatesOf:
        """See StateDatabase."""
        columns = ", ".join(_column(view) for view in views)
        select = f"select key, {columns} from entities_{keys.digest} where key"
        select_single = f"{select} = ?"

        def states_of(packed: list[Any]) -> dict[Any, StateRow]:
            db = self._db()
            if len(packed) == 1:
                row = db.execute(select_single, packed).fetchone()
                return {} if row is None else {row[0]: row}
            states = {}
            for first in range(0, len(packed), _CHUNK):
                chunk = packed[first : first + _CHUNK]
                marks = ", ".join("?" * len(chunk))
                for row in db.execute(f"{select} in ({marks})", chunk):
                    states[row[0]] = row
            return states

        return states_of

    def all_states(self, view: StoredView) -> Iterator[tuple[Key, bytes]]:
        """See StateDatabase."""
        table, keys = self._table(view)
        column = _column(view)
        rows = self._db().execute(f"select key, {column} from {table} where {column} is not null")
        return ((keys.unpack(key), state) for key, state in rows)

    def write_states(self, view: StoredView, states: Iterable[tuple[Key, bytes | None]]) -> None:
        """See StateDatabase."""
        table, keys = self._table(view)
        column, pack = _column(view), keys.packer()
        self._db().executemany(
            f"insert into {table} (key, {column}) values (?, ?) "
            f"on conflict (key) do update set {column} = excluded.{column}",
            ((pack(key), state) for key, state in states),
        )

    def clear_states(self, view: StoredView) -> None:
        """See StateDatabase."""
        column = _column(view)
        self._db().execute(f"update {self._table(view)[0]} set {column} = null where {column} is not null")

    def count_states(self, view: StoredView, prefix: bytes) -> int:
        """See StateDatabase."""
        table, column = self._table(view)[0], _column(view)
        row = self._db().execute(f"select count(*) from {table} where substr({column}, 1, 1) = ?", (prefix,))
        return int(row.fetchone()[0])

    def close(self) -> None:
        """See StateDatabase."""
        with self._lock:
            for db in self._connections:
                db.close()
            self._connections.clear()
            self._local = threading.local()

    def _table(self, view: StoredView) -> tuple[str, KeySchema]:
        """The table of the view's entities, and their keys."""
        row = self._db().execute("select entities, keys from views where digest = ?", (view.digest,)).fetchone()
        return row[0], _decode_keys(row[1])

    def _db(self) -> sqlite3.Connection:
        """This thread's connection."""
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        return self._connect() if db is None else db

    def _connect(self) -> sqlite3.Connection:
        try:
            db = open_shared(self.where, timeout=_WAIT)
        except sqlite3.OperationalError as error:
            raise Unavailable(f"the online store cannot be opened: {error}", where=self.where) from error
        # A crash of the machine may lose the last transactions together with their positions; the log still
        # has them.
        db.execute("pragma synchronous = normal")
        db.execute(f"pragma mmap_size = {1 << 30}")
        self._local.db = db
        with self._lock:
            self._connections.append(db)
        return db


def _column(view: StoredView) -> str:
    return f"v_{view.digest}"
