"""The online store in a PostgreSQL database: a table for each view, with a row for each entity.

A table of its own can be dropped without a trace, and replaced: a new state is written beside the old one,
which is read until the transaction ends. (Columns could not: PostgreSQL counts dropped ones, up to 1,600.)

Writers of a view take turns by the view's row in the table `views`. A lookup is one statement, whatever the
number of entities and views, so it sees one state of the database.
"""

# ruff: noqa: S608  (the names in statements are digests and names made here)

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
from psycopg import errors

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
from headrace.kernel.addresses import check_postgres_address
from headrace.kernel.position import Position, decode_position, encode_position
from headrace.kernel.postgres import PostgresConnection, PostgresPool, create_schema, schema_of
from headrace.kernel.uptime import steady_micros

if TYPE_CHECKING:
    from headrace.features.online.entity_store import EntityStore

__all__ = ["PostgresDatabase", "open_database", "open_postgres"]

_READ = 2.0  # seconds that a lookup waits for the server
_CHUNK = 1 << 20  # bytes of states that are sent at once
_TYPES = {"int64": "bigint", "bytes": "bytea"}
_OIDS = {"int64": 20, "bytes": 17}
_VIEWS = """
create table if not exists {schema}.views (
    digest text primary key,
    keys text not null,          -- JSON: its KeySchema
    view text not null,          -- JSON
    position text                -- JSON; null: not filled
) with (fillfactor = 50)
"""
_decode_keys = msgspec.json.Decoder(KeySchema).decode


def open_postgres(url: str, project: str, *, clock: Callable[[], int] = steady_micros) -> EntityStore:
    """Opens the online store of a project in this database. It connects at the first use.

    Args:
        url: `postgresql://...`, without a password.
        project: the project's name: each project has a schema of its own.
        clock: microseconds since 1970; it decides what no lookup can reach any more.
    """
    from headrace.features.online.entity_store import EntityStore  # it loads the engines

    return EntityStore(PostgresDatabase(url, project), clock=clock)


def open_database(url: str, project: str) -> PostgresDatabase:
    """Opens the database of the online store at `postgresql://...`. It connects at the first use.

    Raises:
        ProjectError: the address has a password in it, or is not valid.
    """
    check_postgres_address(url, "online")
    return PostgresDatabase(url, project)


class PostgresDatabase:
    """See features.online.database.StateDatabase.

    Args:
        url: the database's address, without a password.
        project: the project's name. Its schema is created with the first view.
    """

    def __init__(self, url: str, project: str) -> None:
        self.where = url
        self._pool = PostgresPool(url)
        self._schema = schema_of(project)
        self._local = threading.local()

    @contextmanager
    def writing(self, views: Sequence[StoredView] = ()) -> Iterator[None]:
        """See StateDatabase. Writers of different views do not wait for each other."""
        with self._pool.transaction() as connection:
            self._local.connection = connection
            try:
                if views:
                    self._lock_views([view.digest for view in views])
                else:
                    self._query("select pg_advisory_xact_lock(hashtextextended(%s, 0))", self._schema)
                yield
            finally:
                self._local.connection = None

    def add_view(self, view: StoredView, keys: KeySchema) -> None:
        """See StateDatabase."""
        if not self._exists():
            create_schema(self._connection(), self._schema)
            self._query(_VIEWS.format(schema=self._schema))
        added = self._query(
            f"insert into {self._schema}.views (digest, keys, view) values (%s, %s, %s)"
            " on conflict do nothing returning 1",
            view.digest,
            msgspec.json.encode(keys).decode(),
            msgspec.json.encode(view).decode(),
        )
        if added:
            self._create_table(self._table(view), keys)
            self._query(f"alter table {self._table(view)} add primary key (key)")

    def drop_view(self, digest: str) -> None:
        """See StateDatabase."""
        if self._exists():
            self._query(f"delete from {self._schema}.views where digest = %s", digest)
            self._query(f"drop table if exists {self._schema}.v_{digest}")

    def views(self) -> list[StoredView]:
        """See StateDatabase."""
        return decode_views(self._query_views("select digest, view from {} order by digest"))

    def positions(self) -> dict[str, Position]:
        """See StateDatabase."""
        rows = self._query_views("select digest, position from {} where position is not null")
        return {digest: decode_position(text) for digest, text in rows}

    def keys_of(self, view: StoredView) -> KeySchema | None:
        """See StateDatabase."""
        rows = self._query_views("select keys from {} where digest = %s", view.digest)
        return _decode_keys(rows[0][0]) if rows else None

    def position(self, view: StoredView) -> Position | None:
        """See StateDatabase."""
        rows = self._query_views("select position from {} where digest = %s", view.digest)
        return decode_position(rows[0][0]) if rows and rows[0][0] is not None else None

    def set_position(self, view: StoredView, position: Position) -> None:
        """See StateDatabase."""
        text = encode_position(position)
        self._query(f"update {self._schema}.views set position = %s where digest = %s", text, view.digest)

    def reader(self, groups: Sequence[EntityGroup]) -> ReadStates:
        """See StateDatabase."""
        statement = _reading_statement(self._schema, groups)
        kinds = [keys.kind for keys, _ in groups]
        widths = [len(views) for _, views in groups]

        def read(packed_keys: Sequence[Sequence[PackedKey]]) -> StatesRead:
            arguments = [_encode_keys(kind, keys) for kind, keys in zip(kinds, packed_keys, strict=True)]
            try:
                result = self._pool.run(lambda connection: connection.fetch(statement, arguments, _READ))
            except (errors.UndefinedTable, errors.InvalidSchemaName) as error:
                raise MissingView from error
            values = map(partial(result.get_value, 0), range(result.nfields))
            states, is_complete = [], True
            for width, keys in zip(widths, packed_keys, strict=True):
                counts = [int.from_bytes(next(values) or b"", "big") for _ in range(width)]
                is_complete = is_complete and min(counts) == len(keys)
                states.append([next(values) or b"" for _ in range(width)])
            if is_complete:
                return StatesRead(states, None)
            positions = (None if text is None else decode_position(text) for text in values)
            return StatesRead(states, [list(islice(positions, width)) for width in widths])

        return read

    def read_states(self, view: StoredView, keys: Sequence[PackedKey]) -> dict[PackedKey, bytes]:
        """See StateDatabase."""
        if not keys:
            return {}
        select = f"select s.key, s.state from unnest(%b::{{}}[]) k(key) join {self._table(view)} s using (key)"
        return dict(self._query(select.format(_type_of(keys)), list(keys), binary=True))

    def find_states(self, view: StoredView, prefix: bytes) -> Iterator[tuple[PackedKey, bytes]]:
        """See StateDatabase."""
        select = f"select key, state from {self._table(view)} where substr(state, 1, 1) = %b"
        return iter(self._query(select, prefix, binary=True))

    def count_states(self, view: StoredView, prefix: bytes) -> int:
        """See StateDatabase."""
        select = f"select count(*) from {self._table(view)} where substr(state, 1, 1) = %b"
        return int(self._query(select, prefix)[0][0])

    def write_states(self, view: StoredView, states: Mapping[PackedKey, bytes]) -> None:
        """See StateDatabase."""
        if not states:
            return
        self._query(
            f"insert into {self._table(view)} (key, state)"
            f" select * from unnest(%b::{_type_of(states)}[], %b::bytea[])"
            " on conflict (key) do update set state = excluded.state",
            list(states),
            list(states.values()),
        )

    def remove_states(self, view: StoredView, keys: Sequence[PackedKey]) -> None:
        """See StateDatabase."""
        if not keys:
            return
        self._query(f"delete from {self._table(view)} where key = any(%b::{_type_of(keys)}[])", list(keys))

    def replace_states(self, view: StoredView, states: Iterable[tuple[PackedKey, bytes]]) -> None:
        """See StateDatabase. Writes a new table beside the old one, and puts it in its place."""
        table = self._table(view)
        keys = self.keys_of(view)
        assert keys is not None
        self._create_table(f"{self._schema}.new_{view.digest}", keys)
        copy = f"copy {self._schema}.new_{view.digest} (key, state) from stdin with (format binary, freeze)"
        with self._connection().cursor().copy(copy) as rows:
            for chunk in _encode_rows(keys.kind, states):
                rows.write(chunk)
        self._query(f"alter table {self._schema}.new_{view.digest} add primary key (key)")
        self._query(f"drop table {table}")
        self._query(f"alter table {self._schema}.new_{view.digest} rename to v_{view.digest}")

    def close(self) -> None:
        """See StateDatabase."""
        self._pool.close()

    def _lock_views(self, digests: list[str]) -> None:
        """Lets no other transaction write these views. Raises MissingView if one does not exist."""
        select = f"select digest from {self._schema}.views where digest = any(%s) order by digest for update"
        locked = {digest for (digest,) in self._query(select, digests)}
        for digest in digests:
            if digest not in locked:
                raise MissingView(digest)

    def _exists(self) -> bool:
        return self._query("select to_regclass(%s)", f"{self._schema}.views")[0][0] is not None

    def _create_table(self, table: str, keys: KeySchema) -> None:
        self._query(
            f"create table {table} (key {_TYPES[keys.kind]} not null, state bytea not null)"
            " with (fillfactor = 70)"
        )

    def _table(self, view: StoredView) -> str:
        return f"{self._schema}.v_{view.digest}"

    def _connection(self) -> PostgresConnection:
        """The connection of this thread's transaction."""
        connection: PostgresConnection = self._local.connection
        return connection

    def _query_views(self, select: str, *arguments: object) -> list[Any]:
        """Selects from the table of views; nothing if it does not exist yet."""
        try:
            return self._query(select.format(f"{self._schema}.views"), *arguments)
        except (errors.UndefinedTable, errors.InvalidSchemaName):
            return []

    def _query(self, statement: str, *arguments: object, binary: bool = False) -> list[Any]:
        """Executes a statement, within this thread's transaction if there is one, and returns its rows."""

        def execute(connection: PostgresConnection) -> list[Any]:
            cursor = connection.execute(statement.encode(), arguments or None, binary=binary)
            return [] if cursor.description is None else cursor.fetchall()

        connection = getattr(self._local, "connection", None)
        return self._pool.run(execute) if connection is None else execute(connection)


def _reading_statement(schema: str, groups: Sequence[EntityGroup]) -> bytes:
    """One statement for a lookup, with one row. Its arguments are the packed keys of each group.

    The row has, for each group, how many of its entities have a state in each of its views; their joined states
    in each; and after all groups the positions of all views. PostgreSQL joins the states itself: a row for each
    entity would cost both sides as much as finding it.
    """
    columns, sources = [], []
    for index, (keys, views) in enumerate(groups):
        counts = [f"count(s{view}.state) n{view}" for view in range(len(views))]
        joined = [
            f"string_agg(coalesce(s{view}.state, '\\x{NO_STATE.hex()}'), ''::bytea order by k.i) j{view}"
            for view in range(len(views))
        ]
        joins = [
            f" left join {schema}.v_{view.digest} s{number} on s{number}.key = k.key"
            for number, view in enumerate(views)
        ]
        sources.append(
            f"(select {', '.join([*counts, *joined])}"
            f" from unnest(${index + 1}::{_TYPES[keys.kind]}[]) with ordinality k(key, i){''.join(joins)})"
            f" g{index}"
        )
        columns += [f"g{index}.{name}{view}" for name in "nj" for view in range(len(views))]
    positions = [
        f"(select convert_to(position, 'UTF8') from {schema}.views where digest = '{view.digest}')"
        for _, views in groups
        for view in views
    ]
    return f"select {', '.join([*columns, *positions])} from {', '.join(sources)}".encode()


def _encode_keys(kind: str, keys: Sequence[PackedKey]) -> bytes:
    """An array of keys in PostgreSQL's binary form."""
    if not keys:
        return struct.pack("!iii", 0, 0, _OIDS[kind])
    encode = _ENCODERS[kind]
    items = [_NULL if key is None else encode(key) for key in keys]
    return struct.pack("!iiiii", 1, None in keys, _OIDS[kind], len(keys), 1) + b"".join(items)


def _encode_rows(kind: str, states: Iterable[tuple[PackedKey, bytes]]) -> Iterator[bytes]:
    """Rows in the binary form of COPY, in chunks."""
    encode, head, size = _ENCODERS[kind], struct.Struct("!h").pack(2), struct.Struct("!i").pack
    chunk = [b"PGCOPY\n\xff\r\n\0" + bytes(8)]
    length = 0
    for key, state in states:
        chunk += (head, encode(key), size(len(state)), state)
        length += len(state)
        if length > _CHUNK:
            yield b"".join(chunk)
            chunk, length = [], 0
    yield b"".join([*chunk, b"\xff\xff"])


def _encode_bytes(key: bytes) -> bytes:
    return struct.pack("!i", len(key)) + key


def _type_of(keys: Iterable[PackedKey]) -> str:
    """The type of the keys, of which there is at least one."""
    return "bytea" if isinstance(next(iter(keys)), bytes) else "bigint"


_NULL = struct.pack("!i", -1)
_ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "int64": partial(struct.Struct("!iq").pack, 8),
    "bytes": _encode_bytes,
}
