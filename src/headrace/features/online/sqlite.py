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
)
from headrace.features.online.keys import KeySchema, PackedKey
from headrace.features.plan import StoredView
from headrace.kernel.addresses import path_of
from headrace.kernel.errors import ProjectError
from headrace.kernel.position import Position, decode_position, encode_position
from headrace.kernel.private import make_private
from headrace.kernel.sqlite import name_errors, open_shared, transaction
from headrace.kernel.uptime import steady_micros

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


def open_sqlite(path: str | Path, *, clock: Callable[[], int] = steady_micros) -> EntityStore:
    """Opens the online store in this file, or creates it with the folders above it.

    Args:
        path: the file.
        clock: microseconds since 1970; it decides what no lookup can reach any more.

    Raises:
        Unavailable: the file cannot be opened or another process keeps it locked.
    """
    from headrace.features.online.entity_store import EntityStore  # it loads the engines

    return EntityStore(SqliteDatabase(path), clock=clock)


def open_database(url: str, project: str | None) -> SqliteDatabase:
    """Opens the database of the online store at `sqlite:///path`. Raises errors as SqliteDatabase."""
    return SqliteDatabase(path_of(url), project)


class SqliteDatabase:
    """See features.online.database.StateDatabase.

    Args:
        path: the file; created with the folders above it.
        project: the project that the file belongs to; None: it lies where only one project can have it.

    Raises:
        ProjectError: the file belongs to another project.
        Unavailable: the file cannot be opened or another process keeps it locked.
    """

    def __init__(self, path: str | Path, project: str | None = None) -> None:
        self.where = str(path)
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        make_private(Path(path).parent)
        if not self._query("select 1 from sqlite_master where name = 'views'"):
            with self.writing():
                self._db().execute(_SCHEMA)
                if project is not None:
                    self._db().execute("create table if not exists owner (project text not null)")
                    insert = "insert into owner select ? where not exists (select 1 from owner)"
                    self._db().execute(insert, (project,))
        if project is not None:
            self._check_owner(project)

    def _check_owner(self, project: str) -> None:
        """Raises ProjectError if the file belongs to another project: equal views of both would be one."""
        if not self._query("select 1 from sqlite_master where name = 'owner'"):
            return  # an earlier Headrace made the file
        ((owner,),) = self._query("select project from owner")
        if owner != project:
            raise ProjectError(
                f"the online store in {self.where} belongs to project {owner!r}, not to {project!r}",
                where="setting online",
                remedy="Name another file. If the project was renamed, remove it: a build fills a new one.",
            )

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
            rows = db.execute("select digest, position from views where position is not null")
            return {digest: decode_position(text) for digest, text in rows}

    def set_position(self, view: StoredView, position: Position) -> None:
        """See StateDatabase."""
        text = encode_position(position)
        self._query("update views set position = ? where digest = ?", (text, view.digest))

    def reader(self, groups: Sequence[EntityGroup]) -> ReadStates:
        """See StateDatabase. Reads the position of a view only if an entity lacks a state in it."""
        selects = [_Select(keys, views) for keys, views in groups]

        def read(packed_keys: Sequence[Sequence[PackedKey]]) -> StatesRead:
            db = self._db()
            try:
                if len(selects) == 1 and len(packed_keys[0]) <= _CHUNK:  # one statement
                    states, positions = selects[0].read(db, packed_keys[0])
                    return StatesRead([states], None if positions is None else [positions])
                with transaction(db, write=False):  # every statement sees the same states
                    reads = [select.read(db, keys) for select, keys in zip(selects, packed_keys, strict=True)]
            except sqlite3.DatabaseError as error:
                if str(error).startswith("no such column"):  # that of a view that was dropped
                    raise MissingView from error
                self._abandon(db)
                with name_errors(_WHAT, self.where):
                    raise
            return StatesRead(
                [states for states, _ in reads],
                [positions or [None] * len(states) for states, positions in reads],
            )

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
        states = [f"ifnull({_column(view)}, x'{NO_STATE.hex()}')" for view in views]
        joined = [f"cast(group_concat({state}, '') as blob)" for state in states]
        # The outer table of a left join is the outer loop: the states have the order of the keys.
        source = f"from asked left join entities_{keys.digest} stored on stored.key = asked.key"
        self._views = len(views)
        self._select_rows = f"select {', '.join([*states, *_positions(views, '{} is null')])} {source}"
        self._select_joined = (
            f"select {', '.join([*joined, *_positions(views, 'count({}) < count(*)')])} {source}"
        )
        self._select_row = f"{_name_keys(1)} {self._select_rows}"

    def read(
        self, db: sqlite3.Connection, keys: Sequence[PackedKey]
    ) -> tuple[Sequence[bytes], Sequence[Position | None] | None]:
        """The joined states in each view; of a view in which an entity has none, also the position."""
        states, texts = self._read_chunk(db, keys) if 0 < len(keys) <= _CHUNK else self._read_chunks(db, keys)
        return states, [decode_position(text) if text else None for text in texts] if any(texts) else None

    def _read_chunk(
        self, db: sqlite3.Connection, keys: Sequence[PackedKey]
    ) -> tuple[Sequence[bytes], Sequence[str | None]]:
        """The joined states, and the positions as text."""
        views = self._views
        if len(keys) == 1 or _joins_bytes():
            select = self._select_row if len(keys) == 1 else f"{_name_keys(len(keys))} {self._select_joined}"
            row = db.execute(select, keys).fetchone()
            return row[:views], row[views:]
        columns = list(zip(*db.execute(f"{_name_keys(len(keys))} {self._select_rows}", keys), strict=True))
        return [b"".join(column) for column in columns[:views]], list(map(_find_text, columns[views:]))

    def _read_chunks(
        self, db: sqlite3.Connection, keys: Sequence[PackedKey]
    ) -> tuple[Sequence[bytes], Sequence[str | None]]:
        """The same of as many keys as there are."""
        chunks = [self._read_chunk(db, keys[first : first + _CHUNK]) for first in range(0, len(keys), _CHUNK)]
        views = range(self._views)
        states = [b"".join([states[view] for states, _ in chunks]) for view in views]
        return states, [_find_text([texts[view] for _, texts in chunks]) for view in views]


def _positions(views: Sequence[StoredView], condition: str) -> list[str]:
    """For each view an expression: if the condition is true of its column its position, else null."""
    return [
        f"case when {condition.format(_column(view))}"
        f" then (select position from views where digest = '{view.digest}') end"
        for view in views
    ]


def _name_keys(count: int) -> str:
    """What a statement of this many keys begins with."""
    return f"with asked (key) as (values {'(?),' * (count - 1)}(?))"


def _find_text(texts: Sequence[str | None]) -> str | None:
    return next((text for text in texts if text is not None), None)


@cache
def _joins_bytes() -> bool:
    """Whether SQLite's group_concat keeps a zero byte; in older versions the text ends there."""
    with closing(sqlite3.connect(":memory:")) as db:
        return bool(db.execute("select cast(group_concat(x'610062', '') as blob) = x'610062'").fetchone()[0])


def _column(view: StoredView) -> str:
    return f"v_{view.digest}"
