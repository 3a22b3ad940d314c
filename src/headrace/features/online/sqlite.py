"""The online store in one SQLite file: a row for each entity, a packed column for each view.

A table holds the entities of one set of join keys. A view's column is named by its digest, so that the views of
two plans can be live side by side. Writers take turns; readers see a whole transaction or none of it.
"""

# ruff: noqa: S608  (the names in statements are digests made here)

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.features.online.database import (
    NO_STATE,
    EntityGroup,
    MissingView,
    ReadStates,
    StatesRead,
    decode_views,
    join_states,
)
from headrace.features.online.keys import KeySchema, PackedKey
from headrace.features.plan import StoredView
from headrace.kernel.addresses import path_of
from headrace.kernel.position import Position, decode_position, encode_position
from headrace.kernel.private import make_private
from headrace.kernel.sqlite import name_errors, open_shared, transaction
from headrace.kernel.time import now_micros

if TYPE_CHECKING:
    from headrace.features.online.entity_store import EntityStore

__all__ = ["SqliteDatabase", "open_database", "open_sqlite"]

_CHUNK = 500  # keys in one statement
_WAIT = 60.0  # seconds to wait for another writer's transaction
_WHAT = "the online store"
_TYPES = {"int64": "integer", "bytes": "blob"}
_SCHEMA = """
create table if not exists views (
    digest text primary key,
    entities text not null,      -- the table of its entities
    keys text not null,          -- JSON: its KeySchema
    view text not null,          -- JSON
    position text                -- JSON; null: not filled
) without rowid;
"""
_decode_keys = msgspec.json.Decoder(KeySchema).decode


def open_sqlite(path: str | Path, *, clock: Callable[[], int] = now_micros) -> EntityStore:
    """Opens the online store in this file, or creates it with the folders above it.

    Args:
        path: the file.
        clock: the wall clock, microseconds.

    Raises:
        Unavailable: the file cannot be opened or another process keeps it locked.
    """
    from headrace.features.online.entity_store import EntityStore  # it loads the engines

    return EntityStore(SqliteDatabase(path), clock=clock)


def open_database(url: str, project: str) -> SqliteDatabase:  # noqa: ARG001  the file is the project's
    """Opens the database of the online store at `sqlite:///path`. Raises Unavailable as SqliteDatabase."""
    return SqliteDatabase(path_of(url))


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
        if not self._query("select 1 from sqlite_master where name = 'views'"):
            with self.writing():
                self._db().execute(_SCHEMA)

    @contextmanager
    def writing(self, views: Sequence[StoredView] = ()) -> Iterator[None]:
        """See StateDatabase: the whole file has one writer at a time."""
        with self._answering() as db:
            db.execute("begin immediate")
            try:
                for view in views:
                    self._table(view)
                yield
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite may have rolled it back, or the connection is closed
                    db.execute("rollback")
                raise
            db.execute("commit")

    @contextmanager
    def _answering(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection. If SQLite fails, it is closed: a transaction may be open on it.

        Raises:
            Unavailable: SQLite fails.
        """
        db = self._db()
        try:
            yield db
        except sqlite3.DatabaseError:
            self._abandon(db)
            with name_errors(_WHAT, self.where):
                raise

    def _abandon(self, db: sqlite3.Connection) -> None:
        """Closes a connection on which SQLite failed."""
        self._local.__dict__.pop("db", None)
        with self._lock:
            self._connections = [connection for connection in self._connections if connection is not db]
        db.close()

    def _query(self, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        with self._answering() as db:
            return db.execute(statement, parameters).fetchall()

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
        return decode_views(self._query("select digest, view from views order by digest"))

    def keys_of(self, view: StoredView) -> KeySchema | None:
        """See StateDatabase."""
        rows = self._query("select keys from views where digest = ?", (view.digest,))
        return _decode_keys(rows[0][0]) if rows else None

    def position(self, view: StoredView) -> Position | None:
        """See StateDatabase."""
        rows = self._query("select position from views where digest = ?", (view.digest,))
        return decode_position(rows[0][0]) if rows and rows[0][0] is not None else None

    def positions(self) -> dict[str, Position]:
        """See StateDatabase."""
        with self._answering() as db:
            return _select_positions(db)

    def set_position(self, view: StoredView, position: Position) -> None:
        """See StateDatabase."""
        text = encode_position(position)
        self._query("update views set position = ? where digest = ?", (text, view.digest))

    def reader(self, groups: Sequence[EntityGroup]) -> ReadStates:
        """See StateDatabase. Reads positions only if an entity lacks a state."""
        selects = [_Select(keys, views) for keys, views in groups]

        def read(packed_keys: Sequence[Sequence[PackedKey]]) -> StatesRead:
            db = self._db()
            try:
                with transaction(db, write=False):  # every statement sees the same states
                    states, is_complete = _select_states(db, selects, packed_keys)
                    positions = {} if is_complete else _select_positions(db)
            except sqlite3.DatabaseError as error:
                if str(error).startswith("no such column"):  # that of a view that was dropped
                    raise MissingView from error
                self._abandon(db)
                with name_errors(_WHAT, self.where):
                    raise
            if is_complete:
                return StatesRead(states, None)
            return StatesRead(states, [[positions.get(view.digest) for view in views] for _, views in groups])

        return read

    def read_states(self, view: StoredView, keys: Sequence[PackedKey]) -> dict[PackedKey, bytes]:
        """See StateDatabase."""
        table, column = self._table(view)[0], _column(view)
        states: dict[PackedKey, bytes] = {}
        with self._answering() as db:
            for first in range(0, len(keys), _CHUNK):
                chunk = keys[first : first + _CHUNK]
                marks = "?," * (len(chunk) - 1)
                states.update(
                    db.execute(
                        f"select key, {column} from {table} where key in ({marks}?) and {column} is not null",
                        chunk,
                    )
                )
        return states

    def find_states(self, view: StoredView, prefix: bytes) -> Iterator[tuple[PackedKey, bytes]]:
        """See StateDatabase."""
        table, column = self._table(view)[0], _column(view)
        select = f"select key, {column} from {table} where substr({column}, 1, 1) = ?"
        return iter(self._query(select, (prefix,)))

    def count_states(self, view: StoredView, prefix: bytes) -> int:
        """See StateDatabase."""
        table, column = self._table(view)[0], _column(view)
        rows = self._query(f"select count(*) from {table} where substr({column}, 1, 1) = ?", (prefix,))
        return int(rows[0][0])

    def write_states(self, view: StoredView, states: Mapping[PackedKey, bytes]) -> None:
        """See StateDatabase."""
        self._upsert(view, states.items())

    def remove_states(self, view: StoredView, keys: Sequence[PackedKey]) -> None:
        """See StateDatabase."""
        table, packed_keys = self._table(view)[0], [(key,) for key in keys]
        with self._answering() as db:
            db.executemany(f"update {table} set {_column(view)} = null where key = ?", packed_keys)
            # A key may be a person's name, so it is deleted with its last state.
            columns = [row[1] for row in db.execute(f"pragma table_info({table})") if row[1] != "key"]
            is_empty = " and ".join(f"{column} is null" for column in columns)
            db.executemany(f"delete from {table} where key = ? and {is_empty}", packed_keys)

    def replace_states(self, view: StoredView, states: Iterable[tuple[PackedKey, bytes]]) -> None:
        """See StateDatabase."""
        column = _column(view)
        self._query(f"update {self._table(view)[0]} set {column} = null where {column} is not null")
        self._upsert(view, states)

    def close(self) -> None:
        """See StateDatabase."""
        with self._lock:
            for db in self._connections:
                db.close()
            self._connections.clear()
            self._local = threading.local()

    def _upsert(self, view: StoredView, states: Iterable[tuple[PackedKey, bytes]]) -> None:
        table, column = self._table(view)[0], _column(view)
        with self._answering() as db:
            db.executemany(
                f"insert into {table} (key, {column}) values (?, ?) "
                f"on conflict (key) do update set {column} = excluded.{column}",
                states,
            )

    def _table(self, view: StoredView) -> tuple[str, KeySchema]:
        """The table of the view's entities, and their keys. Raises MissingView if it does not exist."""
        rows = self._query("select entities, keys from views where digest = ?", (view.digest,))
        if not rows:
            raise MissingView(view.digest)
        ((entities, keys),) = rows
        return entities, _decode_keys(keys)

    def _db(self) -> sqlite3.Connection:
        """This thread's connection."""
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        return self._connect() if db is None else db

    def _connect(self) -> sqlite3.Connection:
        with name_errors(_WHAT, self.where):
            db = open_shared(self.where, timeout=_WAIT)
            # A crash of the machine may lose the last transactions together with their positions; the log
            # still has them.
            db.execute("pragma synchronous = normal")
            db.execute(f"pragma mmap_size = {1 << 30}")
        self._local.db = db
        with self._lock:
            self._connections.append(db)
        return db


class _Select:
    """Reads the states of entities in views that have the same join keys.

    SQLite joins the states itself: a row for each entity would cost Python as much as finding it costs SQLite.
    """

    def __init__(self, keys: KeySchema, views: Sequence[StoredView]) -> None:
        table, columns = f"entities_{keys.digest}", [_column(view) for view in views]
        self._views = len(columns)
        self._select_rows = f"select key, {', '.join(columns)} from {table} where key in"
        self._select_single = f"select {', '.join(columns)} from {table} where key = ?"
        counts = ", ".join(f"count({column})" for column in columns)
        joined = ", ".join(
            f"cast(group_concat(ifnull({column}, x'{NO_STATE.hex()}'), '') as blob)" for column in columns
        )
        # The outer table of a left join is the outer loop: the states have the order of the keys.
        self._select = (
            f"select {counts}, {joined} from asked left join {table} stored on stored.key = asked.key"
        )

    def read(self, db: sqlite3.Connection, keys: Sequence[PackedKey]) -> tuple[list[bytes], bool]:
        """The joined states in each view, and whether each entity has one in each."""
        if len(keys) == 1:
            row = db.execute(self._select_single, keys).fetchone()
            if row is None or None in row:
                return [join_states([state]) for state in row or [None] * self._views], False
            return row, True
        chunks, views, is_complete = [], self._views, True
        for first in range(0, len(keys), _CHUNK):
            chunk = keys[first : first + _CHUNK]
            if not _joins_bytes():
                joined, has_all = self._join(db, chunk)
                is_complete = is_complete and has_all
                chunks.append(joined)
                continue
            marks = "(?)," * (len(chunk) - 1)
            row = db.execute(f"with asked (key) as (values {marks}(?)) {self._select}", chunk).fetchone()
            is_complete = is_complete and min(row[:views]) == len(chunk)
            chunks.append(row[views:])
        return [b"".join([chunk[view] for chunk in chunks]) for view in range(views)], is_complete

    def _join(self, db: sqlite3.Connection, keys: Sequence[PackedKey]) -> tuple[list[bytes], bool]:
        """As `read`, for an SQLite that cannot join bytes."""
        marks = "?," * (len(keys) - 1)
        stored = {key: states for key, *states in db.execute(f"{self._select_rows} ({marks}?)", keys)}
        nothing = [None] * self._views
        rows = [stored.get(key, nothing) for key in keys]
        return [join_states(column) for column in zip(*rows, strict=True)], all(None not in row for row in rows)


@cache
def _joins_bytes() -> bool:
    """Whether SQLite's group_concat keeps a zero byte; in older versions the text ends there."""
    with closing(sqlite3.connect(":memory:")) as db:
        return bool(db.execute("select cast(group_concat(x'610062', '') as blob) = x'610062'").fetchone()[0])


def _select_states(
    db: sqlite3.Connection, selects: Sequence[_Select], packed_keys: Sequence[Sequence[PackedKey]]
) -> tuple[list[list[bytes]], bool]:
    """The joined states of each group, and whether each entity has a state in each view."""
    groups, is_complete = [], True
    for select, keys in zip(selects, packed_keys, strict=True):
        states, has_all = select.read(db, keys)
        groups.append(states)
        is_complete = is_complete and has_all
    return groups, is_complete


def _select_positions(db: sqlite3.Connection) -> dict[str, Position]:
    rows = db.execute("select digest, position from views where position is not null")
    return {digest: decode_position(text) for digest, text in rows}


def _column(view: StoredView) -> str:
    return f"v_{view.digest}"
