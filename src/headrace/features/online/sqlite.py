"""The online store in one SQLite file: one row an entity, one packed column a view.

A table holds the entities of one set of join keys; a view's column bears its digest, so that two
plans can be live side by side. Writers take turns; readers see a whole transaction or none of it.
"""

# ruff: noqa: S608  (the names in statements are digests, made here)

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from headrace.features.online import LookupResult, ServedPosition
from headrace.features.online.batches import Entry, entries_by_entity, events_by_entity, merged_entries
from headrace.features.online.readers import ViewReader, readers_of
from headrace.features.online.tiles import BROKEN, Tiles
from headrace.features.plan import AsOfView, FeaturePlan, StoredView, WindowedView
from headrace.kernel import faults
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import CallError, Conflict, Unavailable
from headrace.kernel.position import LogPosition, Position, SnapshotPosition, decode_position, encode_position
from headrace.kernel.private import make_private
from headrace.kernel.sqlite import open_shared
from headrace.kernel.time import now_micros

__all__ = ["SqliteStore"]

_CHUNK = 500  # keys in one statement
_WAIT = 60.0  # seconds for another writer's transaction
_SCHEMA = """
create table if not exists views (
    digest text primary key,
    entities text not null,      -- the table of its entities
    keys text not null,          -- JSON: [[join key, dtype], ...]
    view text not null,          -- JSON
    position text                -- JSON; null: not filled
) without rowid;
"""


class SqliteStore:
    """See features.online.OnlineStore."""

    def __init__(self, path: str | Path, *, clock: Callable[[], int] = now_micros) -> None:
        """Opens the file, or makes it with the folders above it.

        Args:
            path: the file.
            clock: the wall clock, microseconds.

        Raises:
            Unavailable: the file cannot be opened or another process keeps it locked.
        """
        self._path = Path(path)
        self._clock = clock
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._tiles: dict[str, Tiles] = {}
        self._lookups: dict[str, _Lookup] = {}
        make_private(self._path.parent)
        with self._writing() as db:
            db.execute(_SCHEMA)

    def prepare(self, plan: FeaturePlan) -> None:
        """See OnlineStore.prepare."""
        dtypes = {one.join_key: one.dtype for one in plan.entities}
        with self._writing() as db:
            for view in plan.stored:
                keys = [(key, dtypes[key]) for key in view.keys]
                table = _table_of(keys)
                db.execute(f"create table if not exists {table} (key {_key_type(keys)} primary key)")
                if _column(view) not in {row[1] for row in db.execute(f"pragma table_info({table})")}:
                    db.execute(f"alter table {table} add column {_column(view)} blob")
                db.execute(
                    "insert or ignore into views (digest, entities, keys, view) values (?, ?, ?, ?)",
                    (
                        view.digest,
                        table,
                        msgspec.json.encode(keys).decode(),
                        msgspec.json.encode(view).decode(),
                    ),
                )

    def views(self) -> list[StoredView]:
        """See OnlineStore.views."""
        rows = self._db().execute("select view from views order by digest").fetchall()
        return [_view_decoder.decode(text) for (text,) in rows]

    def drop(self, digest: str) -> None:
        """See OnlineStore.drop."""
        with self._writing() as db:
            found = db.execute("delete from views where digest = ? returning entities", (digest,)).fetchone()
            if found is not None:
                db.execute(f"alter table {found[0]} drop column v_{digest}")
        self._lookups.clear()

    def position(self, view: StoredView) -> Position | None:
        """See OnlineStore.position."""
        return _position(self._db(), view)

    def load(self, view: AsOfView, rows: pa.Table, position: SnapshotPosition) -> int:
        """See OnlineStore.load."""
        now = self._clock()
        entries = dict(entries_by_entity(view, rows, position.snapshot_id, now))
        with self._writing() as db:
            entities = _Entities(db, view)
            states: dict[tuple[Any, ...], bytes | None] = {}
            for key, packed in entities.every():
                pushed = _pushed(packed)
                kept = merged_entries(pushed, entries.get(key, []), view, now) if pushed else entries.get(key)
                states[key] = _encode(kept) if kept else None
            states |= {key: _encode(found) for key, found in entries.items() if key not in states}
            entities.write(states.items())
            faults.reach("online.load.written")
            _move(db, view, position)
        return len(entries)

    def push(self, view: AsOfView, rows: pa.Table) -> int:
        """See OnlineStore.push."""
        now = self._clock()
        entries = dict(entries_by_entity(view, rows, None, now))
        with self._writing() as db:
            entities = _Entities(db, view)
            old = entities.read(entries)
            entities.write(
                (key, _encode(merged_entries(_decode(old[key]), pushed, view, now) if key in old else pushed))
                for key, pushed in entries.items()
            )
            if _position(db, view) is None:
                _move(db, view, SnapshotPosition(view.table, 0))
        return len(entries)

    def fill(self, view: WindowedView, rows: pa.Table, position: LogPosition) -> int:
        """See OnlineStore.fill."""
        now = self._clock()
        tiles = self._tiles_of(view)
        packed = [
            (key, tiles.grow(None, key, events, position.offsets, now))
            for key, events in events_by_entity(view, rows, now)
        ]
        with self._writing() as db:
            entities = _Entities(db, view)
            entities.clear()
            entities.write(packed)
            faults.reach("online.fill.written")
            _move(db, view, position)
        return len(packed)

    def broken(self, view: WindowedView) -> int:
        """See OnlineStore.broken."""
        return _Entities(self._db(), view).count(BROKEN)

    def apply(
        self,
        views: Sequence[WindowedView],
        rows: pa.Table,
        position: LogPosition,
        *,
        after: LogPosition,
    ) -> None:
        """See OnlineStore.apply."""
        now = self._clock()
        batches = [dict(events_by_entity(view, rows, now)) for view in views]
        with self._writing() as db:
            for view, events in zip(views, batches, strict=True):
                moved = self._moved(db, view, position, after)
                tiles, entities = self._tiles_of(view), _Entities(db, view)
                old = entities.read(events)
                entities.write(
                    (key, tiles.grow(old.get(key), key, added, moved.offsets, now))
                    for key, added in events.items()
                )
                faults.reach("online.apply.written")
                _move(db, view, moved)
        faults.reach("online.apply.committed")

    def _moved(
        self, db: sqlite3.Connection, view: WindowedView, position: LogPosition, after: LogPosition
    ) -> LogPosition:
        """Where the view stands once it has moved from `after` to `position`."""
        stands = _position(db, view)
        moves = {p: end for p, end in position.offsets.items() if end != after.next_offset(p)}
        if (
            not isinstance(stands, LogPosition)
            or stands.log_id != after.log_id
            or any(stands.next_offset(p) != after.next_offset(p) for p in moves)
        ):
            raise Conflict(
                f"view {view.name!r} stands at {stands}, not at {after}",
                where=str(self._path),
                remedy="Another process moved it. Read its position again and go on from there.",
            )
        return stands.advanced(moves)

    def lookup(self, plan: FeaturePlan, keys: Sequence[Mapping[str, object]], at: int) -> LookupResult:
        """See OnlineStore.lookup."""
        lookup = self._lookups.get(plan.digest)
        if lookup is None:
            lookup = self._lookups[plan.digest] = _Lookup(self._db(), plan)
        return lookup.find(self._db(), keys, at)

    def close(self) -> None:
        """See OnlineStore.close."""
        with self._lock:
            for db in self._open:
                db.close()
            self._open.clear()
            self._local = threading.local()

    def _tiles_of(self, view: WindowedView) -> Tiles:
        if view.digest not in self._tiles:
            self._tiles[view.digest] = Tiles(view)
        return self._tiles[view.digest]

    def _db(self) -> sqlite3.Connection:
        """This thread's connection."""
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            try:
                db = open_shared(self._path, timeout=_WAIT)
            except sqlite3.OperationalError as error:
                raise Unavailable(
                    f"the online store cannot be opened: {error}", where=str(self._path)
                ) from error
            # What a crash of the machine takes is read again from the log: the position is lost with it.
            db.execute("pragma synchronous = normal")
            db.execute(f"pragma mmap_size = {1 << 30}")
            self._local.db = db
            with self._lock:
                self._open.append(db)
        return db

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction of the only writer."""
        db = self._db()
        try:
            db.execute("begin immediate")
        except sqlite3.OperationalError as error:
            raise Unavailable(
                f"the online store is locked: {error}",
                where=str(self._path),
                remedy="Another process has been writing to it for a minute. Try again when it is done.",
            ) from error
        try:
            yield db
        except BaseException:
            db.execute("rollback")
            raise
        db.execute("commit")


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Entry]).decode
_decode_sources = msgspec.msgpack.Decoder(list[tuple[int, int | None, msgspec.Raw]]).decode
_decode_any = msgspec.msgpack.Decoder().decode
_view_decoder = msgspec.json.Decoder(StoredView)


def _pushed(packed: bytes) -> list[Entry]:
    """The pushed ones of an entity's rows. Of what cannot be read, which a load replaces, none."""
    try:
        if all(snapshot is not None for _, snapshot, _ in _decode_sources(packed)):
            return []
        return [entry for entry in _decode(packed) if entry[1] is None]
    except msgspec.DecodeError:
        return []


class _Entities:
    """The states of one view's entities, within a transaction."""

    def __init__(self, db: sqlite3.Connection, view: StoredView) -> None:
        self._db, self._column = db, _column(view)
        found = db.execute("select entities, keys from views where digest = ?", (view.digest,)).fetchone()
        if found is None:
            raise _not_prepared(view)
        self._table, keys = found
        names = msgspec.json.decode(keys)
        self._stored, self._several = _key_form(names), len(names) > 1

    def every(self) -> Iterator[tuple[tuple[Any, ...], bytes]]:
        """Every key of which something is known, and that."""
        sql = f"select key, {self._column} from {self._table} where {self._column} is not null"
        for key, packed in self._db.execute(sql):
            yield (tuple(_decode_any(key)) if self._several else (key,)), packed

    def count(self, begin: bytes) -> int:
        """How many states begin with this byte."""
        sql = f"select count(*) from {self._table} where substr({self._column}, 1, 1) = ?"
        return int(self._db.execute(sql, (begin,)).fetchone()[0])

    def read(self, keys: Iterable[tuple[Any, ...]]) -> dict[tuple[Any, ...], bytes]:
        """What is known of each key; those of which nothing is known are left out."""
        sql = f"select {self._column} from {self._table} where key = ?"
        found = {}
        for key in keys:
            row = self._db.execute(sql, (self._stored(key),)).fetchone()
            if row is not None and row[0] is not None:
                found[key] = row[0]
        return found

    def write(self, packed: Iterable[tuple[tuple[Any, ...], bytes | None]]) -> None:
        """Puts states in place; None forgets one."""
        self._db.executemany(
            f"insert into {self._table} (key, {self._column}) values (?, ?) "
            f"on conflict (key) do update set {self._column} = excluded.{self._column}",
            ((self._stored(key), state) for key, state in packed),
        )

    def clear(self) -> None:
        """Forgets every state of the view."""
        self._db.execute(f"update {self._table} set {self._column} = null where {self._column} is not null")


class _Lookup:
    """How one plan is looked up: one statement for each set of join keys."""

    def __init__(self, db: sqlite3.Connection, plan: FeaturePlan) -> None:
        self._width = len(plan.looked_up)
        groups: dict[str, _Group] = {}
        for reader in readers_of(plan):
            view = reader.view
            found = db.execute("select entities, keys from views where digest = ?", (view.digest,)).fetchone()
            if found is None:
                raise _not_prepared(view)
            table, keys = found
            group = groups.setdefault(table, _Group(table, view.keys, _key_form(msgspec.json.decode(keys))))
            group.readers.append(reader)
        self._groups = list(groups.values())

    def find(self, db: sqlite3.Connection, keys: Sequence[Mapping[str, object]], at: int) -> LookupResult:
        """See OnlineStore.lookup."""
        rows: list[list[object]] = [[None] * self._width for _ in keys]
        positions: list[dict[str, ServedPosition]] = [{} for _ in keys]
        for group in self._groups:
            group.find(db, keys, at, rows, positions)
        return LookupResult(rows, positions)


class _Group:
    """The views of a plan that share their join keys."""

    def __init__(self, table: str, keys: tuple[str, ...], stored: Callable[[tuple[Any, ...]], object]) -> None:
        self.readers: list[ViewReader] = []
        self._table, self._keys, self._stored = table, keys, stored
        self._statements: dict[int, str] = {}

    def find(
        self,
        db: sqlite3.Connection,
        keys: Sequence[Mapping[str, object]],
        at: int,
        rows: list[list[object]],
        positions: list[dict[str, ServedPosition]],
    ) -> None:
        """Puts the group's values into the rows, and their positions."""
        names, form = self._keys, self._stored
        stored = [form(tuple([key[name] for name in names])) for key in keys]
        found = self._read(db, stored)
        filled: list[Position] | None = None
        if any(found.get(key, _NOTHING).count(None) for key in stored):
            # What is not known stands for how far its view has come, so both are read as of one instant.
            db.execute("begin")
            try:
                filled = [self._filled(db, reader.view) for reader in self.readers]
                found = self._read(db, stored)
            finally:
                db.execute("commit")
        for key, row, position in zip(stored, rows, positions, strict=True):
            packed = found.get(key)
            for place, reader in enumerate(self.readers, 1):
                if packed is not None and packed[place] is not None:
                    reader.known(packed[place], at, row, position)
                else:
                    assert filled is not None
                    reader.unknown(filled[place - 1], row, position)

    def _read(self, db: sqlite3.Connection, stored: list[Any]) -> dict[Any, tuple[Any, ...]]:
        """Stored key → (key, packed state of each view), for those that have a row."""
        if len(stored) == 1:
            row = db.execute(self._statement(1), stored).fetchone()
            return {} if row is None else {row[0]: row}
        found = {}
        for first in range(0, len(stored), _CHUNK):
            some = stored[first : first + _CHUNK]
            for row in db.execute(self._statement(len(some)), some):
                found[row[0]] = row
        return found

    def _statement(self, count: int) -> str:
        if count not in self._statements:
            columns = ", ".join(_column(reader.view) for reader in self.readers)
            marks = ", ".join("?" * count)
            self._statements[count] = f"select key, {columns} from {self._table} where key in ({marks})"
        return self._statements[count]

    def _filled(self, db: sqlite3.Connection, view: StoredView) -> Position:
        position = _position(db, view)
        if position is None:
            raise Unavailable(
                f"view {view.name!r} holds no values yet",
                remedy="headrace build fills it.",
            )
        return position


_NOTHING = (None,)


def _position(db: sqlite3.Connection, view: StoredView) -> Position | None:
    found = db.execute("select position from views where digest = ?", (view.digest,)).fetchone()
    return None if found is None or found[0] is None else decode_position(found[0])


def _move(db: sqlite3.Connection, view: StoredView, position: Position) -> None:
    db.execute("update views set position = ? where digest = ?", (encode_position(position), view.digest))


def _not_prepared(view: StoredView) -> CallError:
    return CallError(
        f"view {view.name!r} ({view.digest}) is not in the online store", remedy="headrace build fills it."
    )


def _column(view: StoredView) -> str:
    return f"v_{view.digest}"


def _table_of(keys: Sequence[tuple[str, str]]) -> str:
    return "entities_" + short_digest(msgspec.json.encode(keys))


def _key_type(keys: Sequence[tuple[str, str]]) -> str:
    if len(keys) > 1:
        return "blob"
    return "integer" if keys[0][1] == "int64" else "text"


def _key_form(keys: Sequence[tuple[str, str]]) -> Callable[[tuple[Any, ...]], object]:
    """From a key to what its table holds: the value itself, or several packed."""
    if len(keys) > 1:
        return _encode
    return lambda key: key[0]
