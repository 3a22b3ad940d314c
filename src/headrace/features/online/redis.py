"""The online store on a Redis server: a hash for each view, with a field for each entity.

A hash can be dropped, and replaced by renaming: a new state is written beside the old one, which is read until
the transaction ends. All positions are in one hash. A lookup is one round trip, whatever the number of entities
and views. A write ends with one MULTI: the server's memory and its append-only file have a state and its
position, or neither.

Writers of a view take turns by a lock, which is taken from a holder that is not connected any more, or gave no
sign for long. A writer that has lost its lock cannot commit. The lock also shows whether the server was
restarted without its last changes: they are lost in order, so that whoever still has the lock has everything
that it read under it.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, islice
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import msgspec
from hiredis import pack_command
from msgspec import Struct

from headrace.features.online.database import (
    EntityGroup,
    MissingView,
    ReadStates,
    StatesRead,
    decode_views,
    join_states,
)
from headrace.features.online.keys import KeySchema, PackedKey
from headrace.features.plan import StoredView
from headrace.kernel.addresses import check_redis_address
from headrace.kernel.errors import Conflict, Unavailable
from headrace.kernel.position import Position, decode_position, encode_position
from headrace.kernel.redis import Command, RedisConnection, RedisPool, error_of
from headrace.kernel.uptime import steady_micros

if TYPE_CHECKING:
    from headrace.features.online.entity_store import EntityStore

__all__ = ["RedisDatabase", "open_database", "open_redis"]

_READ, _WRITE = 2.0, 30.0  # seconds that a lookup and a write wait for a reply
_LOCKED = 30_000  # milliseconds for which a lock is held without a sign of its holder
_STAGED = 60_000  # the same for a state that is being written; longer, so that the lock is lost first
_WAIT = 60.0  # seconds to wait for another writer
_PAUSE = 0.01  # seconds between two looks at a lock
_CHUNK = 500  # entities in one command
_MULTI, _EXEC = pack_command(("MULTI",)), pack_command(("EXEC",))
_ACQUIRE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return holder end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
"""
_RENEW = """
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) ~= ARGV[1] then return 0 end
  redis.call('PEXPIRE', key, ARGV[2])
end
return 1
"""
_RELEASE = """
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then redis.call('DEL', key) end
end
"""
_FIND = """
local page, matches = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', 1000), {}
for i = 1, #page[2], 2 do
  if string.sub(page[2][i + 1], 1, 1) == ARGV[2] then
    matches[#matches + 1] = page[2][i]
    matches[#matches + 1] = page[2][i + 1]
  end
end
return {page[1], matches}
"""
_encode = msgspec.json.Encoder().encode


class _ViewRecord(Struct, frozen=True):
    keys: KeySchema
    view: StoredView


class _RawRecord(Struct, frozen=True):
    view: msgspec.Raw


_decode_record = msgspec.json.Decoder(_ViewRecord).decode
_decode_raw = msgspec.json.Decoder(_RawRecord).decode


def open_redis(url: str, project: str, *, clock: Callable[[], int] = steady_micros) -> EntityStore:
    """Opens the online store of a project on this server. It connects at the first use.

    Args:
        url: `redis://...`, `rediss://...` or `unix://...`, without a password.
        project: the project's name: the names of its keys begin with it.
        clock: microseconds since 1970; it decides what no lookup can reach any more.

    Raises:
        ProjectError: the address is not valid.
    """
    from headrace.features.online.entity_store import EntityStore  # it loads the engines

    return EntityStore(RedisDatabase(url, project), clock=clock)


def open_database(url: str, project: str) -> RedisDatabase:
    """Opens the database of the online store at `redis://...`. It connects at the first use.

    Raises:
        ProjectError: the address has a password in it, or is not valid.
    """
    check_redis_address(url, "online")
    return RedisDatabase(url, project)


class _Transaction:
    """What one `writing` will change.

    Args:
        connection: the connection that shows to others that this process is alive.
        locks: the keys of its locks.

    Attributes:
        connection: the same.
        token: the value of its locks: the connection's number and a random part.
        locks: the keys of its locks.
        commands: the changes, packed.
        staged: the key of each new state that was written beside the old one → its number of entities.
    """

    def __init__(self, connection: RedisConnection, locks: list[str]) -> None:
        self.connection = connection
        self.token = f"{connection.number}:{secrets.token_hex(16)}"
        self.locks = locks
        self.commands: list[bytes] = []
        self.staged: dict[str, int] = {}

    def add(self, *command: bytes | str | int) -> None:
        """Adds a change."""
        self.commands.append(pack_command(command))


class RedisDatabase:
    """See features.online.database.StateDatabase.

    Args:
        url: the server's address, without a password.
        project: the project's name: the names of its keys begin with it.

    Raises:
        ProjectError: the address is not valid.
    """

    def __init__(self, url: str, project: str) -> None:
        self.where = url
        self._lookups, self._pool = RedisPool(url, _READ), RedisPool(url, _WRITE)
        self._prefix = f"headrace:{{{project}}}:"
        self._views, self._positions = self._key("views"), self._key("positions")
        self._local = threading.local()
        self._abandoned: list[_Transaction] = []

    @contextmanager
    def writing(self, views: Sequence[StoredView] = ()) -> Iterator[None]:
        """See StateDatabase. Writers of different views do not wait for each other.

        Raises:
            Conflict: the process was stopped for so long that another one has the lock.
        """
        digests = sorted({view.digest for view in views})
        locks = [self._key("lock", name) for name in digests or ["views"]]
        connection, _ = self._pool.start(lambda connection: connection.execute(("PING",)))
        transaction = _Transaction(connection, locks)
        try:
            self._release_abandoned()
            self._acquire(transaction)
            if digests:
                self._check_views(digests)
            self._local.transaction = transaction
            try:
                yield
            finally:
                self._local.transaction = None
            self._commit(transaction)
        except BaseException:
            self._abandoned.append(transaction)
            with suppress(Unavailable):  # the next transaction tries again, and at last the server forgets them
                self._release_abandoned()
            raise
        finally:
            self._pool.give_back(connection)

    def add_view(self, view: StoredView, keys: KeySchema) -> None:
        """See StateDatabase."""
        self._change("HSETNX", self._views, view.digest, _encode(_ViewRecord(keys, view)))
        self._change("HSETNX", self._positions, view.digest, b"")

    def drop_view(self, digest: str) -> None:
        """See StateDatabase. A transaction that writes the view loses its lock."""
        self._change("HDEL", self._views, digest)
        self._change("HDEL", self._positions, digest)
        self._change("UNLINK", self._key("state", digest), self._key("lock", digest))

    def views(self) -> list[StoredView]:
        """See StateDatabase."""
        records = self._read("HGETALL", self._views)
        texts = zip(map(bytes.decode, records[::2]), records[1::2], strict=True)
        views = decode_views((digest, _decode_raw(text).view) for digest, text in texts)
        return sorted(views, key=lambda view: view.digest)

    def positions(self) -> dict[str, Position]:
        """See StateDatabase."""
        texts = self._read("HGETALL", self._positions)
        return {
            digest.decode(): decode_position(text)
            for digest, text in zip(texts[::2], texts[1::2], strict=True)
            if text
        }

    def keys_of(self, view: StoredView) -> KeySchema | None:
        """See StateDatabase."""
        text = self._read("HGET", self._views, view.digest)
        return _decode_record(text).keys if text is not None else None

    def position(self, view: StoredView) -> Position | None:
        """See StateDatabase."""
        text = self._read("HGET", self._positions, view.digest)
        return decode_position(text) if text else None

    def set_position(self, view: StoredView, position: Position) -> None:
        """See StateDatabase."""
        self._change("HSET", self._positions, view.digest, encode_position(position))

    def reader(self, groups: Sequence[EntityGroup]) -> ReadStates:
        """See StateDatabase."""
        heads = [[_pack_arguments("HMGET", self._state(view)) for view in views] for _, views in groups]
        digests = [view.digest for _, views in groups for view in views]
        positions = pack_command(("HMGET", self._positions, *digests))

        def read(packed_keys: Sequence[Sequence[PackedKey]]) -> StatesRead:
            commands = [positions]
            for views, keys in zip(heads, packed_keys, strict=True):
                fields = ([key for key in keys if key is not None] if None in keys else keys) or [b""]
                width, packed = 2 + len(fields), _pack_arguments(*fields)  # once, for all views
                commands += [b"*%d\r\n%b%b" % (width, head, packed) for head in views]
            commands.append(positions)
            texts, *states = self._lookups.run(lambda connection: _read_at_once(connection, commands))
            if None in texts:
                raise MissingView(digests[texts.index(None)])
            columns = iter(states)
            joined: list[list[bytes]] = []
            is_complete = True
            for views, keys in zip(heads, packed_keys, strict=True):
                group = [_in_places(keys, next(columns)) for _ in views]
                is_complete = is_complete and not any(None in column for column in group)
                joined.append([join_states(column) for column in group])
            if is_complete:
                return StatesRead(joined, None)
            left = iter([decode_position(text) if text else None for text in texts])
            return StatesRead(joined, [[next(left) for _ in views] for views in heads])

        return read

    def read_states(self, view: StoredView, keys: Sequence[PackedKey]) -> dict[PackedKey, bytes]:
        """See StateDatabase."""
        states: dict[PackedKey, bytes] = {}
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            values = self._read("HMGET", self._state(view), *[_field(key) for key in chunk])
            states.update((key, value) for key, value in zip(chunk, values, strict=True) if value is not None)
        return states

    def find_states(self, view: StoredView, prefix: bytes) -> Iterator[tuple[PackedKey, bytes]]:
        """See StateDatabase. The server looks at a thousand states at a time: lookups come in between."""
        keys = self.keys_of(view)
        assert keys is not None
        matches: dict[bytes, bytes] = {}
        cursor = b"0"
        while True:
            cursor, page = self._call(_FIND, [self._state(view)], cursor, prefix)
            matches.update(zip(page[::2], page[1::2], strict=True))
            if cursor == b"0":
                break
        is_number = keys.kind == "int64"
        return ((int(field) if is_number else field, state) for field, state in matches.items())

    def count_states(self, view: StoredView, prefix: bytes) -> int:
        """See StateDatabase."""
        return sum(1 for _ in self.find_states(view, prefix))

    def write_states(self, view: StoredView, states: Mapping[PackedKey, bytes]) -> None:
        """See StateDatabase."""
        self._renew()
        for fields in _chunks(states.items()):
            self._change("HSET", self._state(view), *fields)

    def remove_states(self, view: StoredView, keys: Sequence[PackedKey]) -> None:
        """See StateDatabase."""
        for start in range(0, len(keys), _CHUNK):
            self._change("HDEL", self._state(view), *[_field(key) for key in keys[start : start + _CHUNK]])

    def replace_states(self, view: StoredView, states: Iterable[tuple[PackedKey, bytes]]) -> None:
        """See StateDatabase. Writes a new hash beside the old one, and puts it in its place."""
        transaction: _Transaction = self._local.transaction
        staged, state = self._key("new", f"{view.digest}:{transaction.token}"), self._state(view)
        transaction.staged[staged] = 0
        for fields in _chunks(states):
            self._renew()
            self._execute(("HSET", staged, *fields), ("PEXPIRE", staged, _STAGED))
            transaction.staged[staged] += len(fields) // 2
        self._change("UNLINK", state)
        if transaction.staged[staged]:
            self._change("RENAME", staged, state)
            self._change("PERSIST", state)

    def close(self) -> None:
        """See StateDatabase."""
        self._lookups.close()
        self._pool.close()

    def _acquire(self, transaction: _Transaction) -> None:
        deadline = monotonic() + _WAIT
        for key in transaction.locks:
            while holder := self._call(_ACQUIRE, [key], transaction.token, _LOCKED):
                if monotonic() > deadline:
                    raise Unavailable(
                        "the online store is locked",
                        where=self.where,
                        remedy="Another process has been writing to it for a minute. Try again when it has"
                        " finished.",
                    )
                with suppress(Unavailable):  # this user may not ask who is connected: the lock ends by itself
                    number = holder.partition(b":")[0]
                    if number != b"0" and not self._read("CLIENT", "LIST", "ID", number):
                        self._call(_RELEASE, [key], holder)
                        continue
                sleep(_PAUSE)

    def _release_abandoned(self) -> None:
        """Gives up the locks and the new states of transactions that failed."""
        for transaction in self._abandoned.copy():
            self._call(_RELEASE, transaction.locks, transaction.token)
            if transaction.staged:
                self._read("UNLINK", *transaction.staged)
            with suppress(ValueError):  # another thread did it too
                self._abandoned.remove(transaction)

    def _renew(self) -> None:
        """Keeps this thread's locks for longer. Raises Conflict if one was lost."""
        transaction: _Transaction = self._local.transaction
        if not self._call(_RENEW, transaction.locks, transaction.token, _LOCKED):
            raise self._conflict()

    def _check_views(self, digests: list[str]) -> None:
        texts = self._read("HMGET", self._positions, *digests)
        if None in texts:
            raise MissingView(digests[texts.index(None)])

    def _commit(self, transaction: _Transaction) -> None:
        """Makes the changes, if the locks and the new states are still there.

        Raises:
            Conflict: a lock was lost; nothing was changed.
            Unavailable: the link failed. If that was at the end, the changes may have been made.
        """
        staged = transaction.staged
        checks: list[Command] = [("WATCH", *transaction.locks, *staged), ("MGET", *transaction.locks)]
        checks += [("HLEN", key) for key in staged]

        connection = transaction.connection
        connection.is_watching = True
        try:
            _, tokens, *counts = connection.execute(*checks)
            if set(tokens) != {transaction.token.encode()} or counts != list(staged.values()):
                raise self._conflict()
            transaction.add("DEL", *transaction.locks)
            commands = [_MULTI, *transaction.commands, _EXEC]
            if _execute_multi(connection, commands, len(commands)) is None:
                raise self._conflict()
        except self._pool.errors as error:
            raise self._pool.describe(error) from error
        connection.is_watching = False

    def _conflict(self) -> Conflict:
        return Conflict(
            "this process was stopped while it wrote to the online store, and another one may have written"
            " meanwhile",
            where=self.where,
            remedy="Nothing was changed. Try again.",
        )

    def _change(self, *command: bytes | str | int) -> None:
        """Adds a change to this thread's transaction."""
        transaction: _Transaction = self._local.transaction
        transaction.add(*command)

    def _call(self, script: str, keys: Sequence[str], *arguments: bytes | str | int) -> Any:
        return self._read("EVAL", script, len(keys), *keys, *arguments)

    def _read(self, *command: bytes | str | int) -> Any:
        return self._execute(command)[0]

    def _execute(self, *commands: Command) -> list[Any]:
        """Executes commands that may be repeated, and returns their replies."""
        return self._pool.run(lambda connection: connection.execute(*commands))

    def _state(self, view: StoredView) -> str:
        return self._key("state", view.digest)

    def _key(self, *parts: str) -> str:
        return self._prefix + ":".join(parts)


def _read_at_once(connection: RedisConnection, commands: Sequence[bytes]) -> list[Any]:
    """The replies to commands that only read, all of one moment, without the last one.

    The first command and the last one read the positions. If they differ, there was a commit in between, and
    the commands are sent again within MULTI: not at first, because a server whose memory is full refuses it.
    """
    replies = connection.execute_packed(commands, len(commands))
    if replies.pop() == replies[0]:
        return replies
    return _execute_multi(connection, [_MULTI, *commands[:-1], _EXEC], len(commands) + 1)  # type: ignore[no-any-return]


def _execute_multi(connection: RedisConnection, packed: Sequence[bytes], width: int) -> Any:
    """The replies to what is between MULTI and EXEC; None if a watched key was changed.

    Args:
        connection: the connection.
        packed: the commands, in any number of parts.
        width: the number of commands, with MULTI and EXEC.
    """
    replies = connection.execute_packed(packed, width)[-1]
    if replies is not None and (error := error_of(replies)) is not None:
        raise error
    return replies


def _pack_arguments(*arguments: PackedKey | str) -> bytes:
    """A part of a command, which the server wants as `*`, the number of its arguments, and the arguments."""
    packed: bytes = pack_command(arguments)
    return packed.partition(b"\r\n")[2]


def _field(key: PackedKey) -> bytes:
    """The field of an entity in a view's hash."""
    assert key is not None
    return key if isinstance(key, bytes) else b"%d" % key


def _in_places(keys: Sequence[PackedKey], values: Sequence[bytes | None]) -> Sequence[bytes | None]:
    """The values of the keys that are not null, in the places of their keys."""
    if None not in keys:
        return values[: len(keys)]  # without keys, one value was asked for
    left = iter(values)
    return [None if key is None else next(left) for key in keys]


def _chunks(states: Iterable[tuple[PackedKey, bytes]]) -> Iterator[list[bytes]]:
    """Fields and values for HSET, in chunks."""
    left = iter(states)
    while chunk := list(islice(left, _CHUNK)):
        yield list(chain.from_iterable((_field(key), state) for key, state in chunk))
