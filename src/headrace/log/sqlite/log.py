"""The embedded log: one SQLite file a topic.

Records lie in chunks, as in Kafka's record batches: one row holds up to 1,000 records of one append
as msgpack, keyed by its log partition and first offset. A million records of 220 bytes are read in
a fraction of the time that a row a record takes, and a reader does not fight over the interpreter's
lock at every row. WAL and synchronous=FULL make an append durable; threads that append at the same
time share one transaction, so that the disk is waited for once.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path
from time import monotonic

import msgspec
import numpy as np

from headrace.kernel.errors import CallError, Unavailable
from headrace.kernel.ids import new_id
from headrace.kernel.private import make_private
from headrace.kernel.sqlite import is_locked
from headrace.kernel.time import now_micros
from headrace.log.partition import partition_of
from headrace.log.port import OVERHEAD, Batch, Headers, check_lengths, check_sizes, record_sizes
from headrace.log.sqlite.member import SqliteMember

__all__ = ["SqliteLog"]

CHUNK_RECORDS = 1_000
CHUNK_BYTES = 1 << 20
READ_BYTES = 256 << 20  # a batch ends with the chunk that passes this, so that its size in memory is bounded
BUSY_SECONDS = 30
FORGET_SECONDS = 1.0  # how often an append looks for what is past the topic's retention
FORGET_CHUNKS = 500  # how many chunks of a log partition it then drops at most
POLL_SECONDS = 0.01  # how soon an append of another process is noticed by `wait`
_TOPIC = re.compile(
    r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}"
)  # Kafka's rule, but no leading dot: it is a file's name

_SCHEMA = """
CREATE TABLE topic (identity TEXT NOT NULL, retention INTEGER);  -- microseconds; null: for good
CREATE TABLE log_partition (
    id INTEGER PRIMARY KEY,
    first_offset INTEGER NOT NULL,
    next_offset INTEGER NOT NULL
);
CREATE TABLE chunk (
    id INTEGER PRIMARY KEY,           -- log partition * 2^48 + offset of its first record
    records INTEGER NOT NULL,
    arrived_at INTEGER NOT NULL,      -- microseconds since 1970
    body BLOB NOT NULL                -- msgpack: [values, keys or nil, headers or nil]
);
"""
_SHIFT = 48

Keys = list[bytes | None]
Body = tuple[list[bytes], Keys | None, list[dict[str, bytes] | None] | None]
_body = msgspec.msgpack.Decoder(Body)


class _Append:
    """One caller's records on their way into a transaction."""

    def __init__(
        self, values: Sequence[bytes], keys: Keys, headers: list[Headers | None], sizes: list[int]
    ) -> None:
        self.values, self.keys, self.headers, self.sizes = values, keys, headers, sizes
        self.positions: list[tuple[int, int]] = []
        self.error: Exception | None = None
        self.done = False


class SqliteLog:
    """A folder with one SQLite file a topic (see headrace.log.port.Log)."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._topics: dict[str, _Topic] = {}
        self._lock = threading.Lock()
        try:
            make_private(self._folder)
        except OSError as error:
            raise Unavailable(
                f"the log's folder cannot be made: {error.strerror}",
                where=folder,
                remedy="Make it, or give this user the right to.",
            ) from error

    def create(self, topic: str, partitions: int = 1, retention: timedelta | None = None) -> None:
        if not _TOPIC.fullmatch(topic):
            raise CallError(
                f"{topic!r} is no topic's name", remedy="Use letters, digits, '.', '_' and '-', at most 200."
            )
        if partitions < 1:
            raise CallError(f"topic {topic!r} needs at least one log partition, not {partitions}")
        path = self._path(topic)
        if not path.exists():
            with _faults_named(path):
                _make_file(path, partitions)
        if retention is not None and retention != self.retention(topic):
            self._topic(topic).keep(retention)

    def retention(self, topic: str) -> timedelta | None:
        return self._topic(topic).retention()

    def topics(self) -> list[str]:
        return sorted(path.name.removesuffix(".db") for path in self._folder.glob("[!.]*.db"))

    def identity(self, topic: str) -> str:
        return self._topic(topic).identity

    def partitions(self, topic: str) -> int:
        return len(self._topic(topic).bounds())

    def append(
        self,
        topic: str,
        values: Sequence[bytes],
        keys: Sequence[bytes | None] | None = None,
        headers: Sequence[Headers | None] | None = None,
    ) -> list[tuple[int, int]]:
        check_lengths(topic, values, keys, headers)
        sizes = record_sizes(values, keys, headers)
        one = _Append(values, list(keys or [None] * len(values)), list(headers or [None] * len(values)), sizes)
        if values:
            file = self._topic(topic)
            check_sizes(
                topic, sizes, file.largest, str(file.path), "Make the events smaller: SQLite takes no more."
            )
            file.append(one)
        return one.positions

    def largest(self, topic: str) -> int:
        return self._topic(topic).largest

    def read(self, topic: str, offsets: Mapping[int, int], limit: int) -> Batch:
        return self._topic(topic).read(offsets, limit)

    def wait(self, topic: str, offsets: Mapping[int, int], timeout: float) -> bool:
        one = self._topic(topic)
        deadline = monotonic() + timeout
        while True:
            if any(offsets.get(partition, 0) < end for partition, (_, end) in one.bounds().items()):
                return True
            left = deadline - monotonic()
            if left <= 0:
                return False
            with one.appended:
                one.appended.wait(min(POLL_SECONDS, left))

    def start(self, topic: str) -> dict[int, int]:
        return {partition: first for partition, (first, _) in self._topic(topic).bounds().items()}

    def end(self, topic: str) -> dict[int, int]:
        return {partition: end for partition, (_, end) in self._topic(topic).bounds().items()}

    def trim(self, topic: str, offsets: Mapping[int, int]) -> None:
        self._topic(topic).trim(offsets)

    def join(
        self,
        topic: str,
        group: str,
        folder: Path,  # noqa: ARG002 - the topic's file says who lives
        settle: Callable[[], None] = lambda: None,
    ) -> SqliteMember:
        path = self._topic(topic).path
        with _faults_named(path):
            connection = _connect(path)
            connection.execute("PRAGMA synchronous = NORMAL")  # no lease outlives a crash of the machine
        return SqliteMember(connection, lambda: _faults_named(path), group, settle)

    def close(self) -> None:
        with self._lock:
            for one in self._topics.values():
                one.close()
            self._topics.clear()

    def _path(self, topic: str) -> Path:
        return self._folder / f"{topic}.db"

    def _topic(self, topic: str) -> _Topic:
        with self._lock:
            found = self._topics.get(topic)
            if found is not None and not found.is_at_its_path():
                self._topics.pop(topic).close()  # it was deleted, and maybe made again
                found = None
            if found is None:
                path = self._path(topic)
                if not (_TOPIC.fullmatch(topic) and path.exists()):
                    there = ", ".join(self.topics()) or "none yet"
                    raise CallError(
                        f"there is no topic {topic!r}", where=str(self._folder), remedy=f"There are: {there}."
                    )
                found = self._topics[topic] = _Topic(path)
            return found


class _Topic:
    """One topic's file: a connection to write and one to read, each under its own lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.appended = threading.Condition()
        self._waiting: list[_Append] = []
        self._queue = threading.Lock()
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._turn = count()
        self._forgets = 0.0
        with _faults_named(path):
            self._file = path.stat().st_ino
            self._writer = _connect(path)
            self._reader = _connect(path)
            self.identity: str = self._reader.execute("SELECT identity FROM topic").fetchone()[0]
            if not self._has_retention():  # a file of before there was one
                with _transaction(self._writer):
                    if not self._has_retention():
                        self._writer.execute("ALTER TABLE topic ADD COLUMN retention INTEGER")

    def _has_retention(self) -> bool:
        columns = self._writer.execute("SELECT name FROM pragma_table_info('topic')").fetchall()
        return ("retention",) in columns

    @property
    def largest(self) -> int:
        """How many bytes a record may have: a chunk of it alone must be no longer than a row may be."""
        return self._writer.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) - OVERHEAD

    def is_at_its_path(self) -> bool:
        """Whether the file that is open is still the topic's."""
        try:
            return self.path.stat().st_ino == self._file
        except FileNotFoundError:
            return False

    def retention(self) -> timedelta | None:
        with _faults_named(self.path), self._read_lock:
            (micros,) = self._reader.execute("SELECT retention FROM topic").fetchone()
        return None if micros is None else timedelta(microseconds=micros)

    def keep(self, retention: timedelta) -> None:
        """Sets the retention; what is past it goes as appends come."""
        micros = retention // timedelta(microseconds=1)
        with _faults_named(self.path), self._write_lock, _transaction(self._writer):
            self._writer.execute("UPDATE topic SET retention = ?", (micros,))

    def bounds(self) -> dict[int, tuple[int, int]]:
        """Log partition → (first offset kept, next offset to be written)."""
        with _faults_named(self.path), self._read_lock:
            rows = self._reader.execute("SELECT id, first_offset, next_offset FROM log_partition").fetchall()
        return {partition: (first, end) for partition, first, end in rows}

    def append(self, one: _Append) -> None:
        with self._queue:
            self._waiting.append(one)
        with self._write_lock:  # whoever comes first writes for all who wait; the others find theirs done
            if not one.done:
                with self._queue:
                    group, self._waiting = self._waiting, []
                self._write(group)
        if one.error is not None:
            raise one.error
        with self.appended:
            self.appended.notify_all()

    def _write(self, group: list[_Append]) -> None:
        error: Exception | None = None
        try:
            with _faults_named(self.path), _transaction(self._writer):
                ends = dict(self._writer.execute("SELECT id, next_offset FROM log_partition"))
                arrived_at = now_micros()
                rows = [row for one in group for row in self._chunks(one, ends, arrived_at)]
                self._writer.executemany("INSERT INTO chunk VALUES (?, ?, ?, ?)", rows)
                self._writer.executemany(
                    "UPDATE log_partition SET next_offset = ? WHERE id = ?",
                    [(offset, partition) for partition, offset in ends.items()],
                )
                self._forget(ends, arrived_at)
        except Exception as raised:
            error = raised  # each of the group is told, in its own thread
        for one in group:
            one.error, one.done = error, True

    def _chunks(
        self, one: _Append, ends: dict[int, int], arrived_at: int
    ) -> Iterator[tuple[int, int, int, bytes]]:
        """The rows of one append; takes its offsets from `ends`, which it moves on."""
        keyless = next(self._turn) % len(ends)
        if len(ends) == 1:
            chosen = {0: range(len(one.values))}
        else:
            lists: dict[int, list[int]] = {}
            for at, key in enumerate(one.keys):
                lists.setdefault(keyless if key is None else partition_of(key, len(ends)), []).append(at)
            chosen = lists  # type: ignore[assignment]
        positions: list[tuple[int, int]] = [(0, 0)] * len(one.values)
        for partition, places in chosen.items():
            for part in _split(places, one.sizes):
                first = ends[partition]
                ends[partition] = first + len(part)
                for offset, at in enumerate(part, first):
                    positions[at] = (partition, offset)
                yield (partition << _SHIFT) + first, len(part), arrived_at, _encoded(one, part)
        one.positions = positions

    def _forget(self, partitions: Iterable[int], now: int) -> None:
        """Drops chunks past the retention, the oldest ones first."""
        (retention,) = self._writer.execute("SELECT retention FROM topic").fetchone()
        if retention is None or monotonic() < self._forgets:
            return
        self._forgets = monotonic() + FORGET_SECONDS
        for partition in partitions:
            low = partition << _SHIFT
            before = None
            oldest = self._writer.execute(
                "SELECT id, records, arrived_at FROM chunk WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
                (low, (partition + 1) << _SHIFT, FORGET_CHUNKS),
            )
            for id_, records, arrived_at in oldest:
                if arrived_at >= now - retention:
                    break
                before = id_ + records - low
            if before is not None:
                self._drop(partition, before)

    def read(self, offsets: Mapping[int, int], limit: int) -> Batch:
        parts: list[_Part] = []
        left, size = limit, 0
        with _faults_named(self.path), self._read_lock:
            for turn, (partition, offset) in enumerate(sorted(offsets.items())):
                share = -(-left // (len(offsets) - turn))  # no partition starves behind a long one
                for part in self._parts(partition, offset, share):
                    parts.append(part)
                    left -= len(part.values)
                    size += part.size
                    if size >= READ_BYTES:
                        break
                if size >= READ_BYTES:
                    break
        return _joined(parts, offsets)

    def _parts(self, partition: int, offset: int, limit: int) -> Iterator[_Part]:
        low = partition << _SHIFT
        if limit <= 0:
            return
        holds = self._reader.execute(
            "SELECT id FROM chunk WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT 1", (low, low + offset)
        ).fetchone()
        with closing(
            self._reader.execute(
                "SELECT id, arrived_at, body FROM chunk WHERE id >= ? AND id < ? ORDER BY id",
                (holds[0] if holds else low, (partition + 1) << _SHIFT),
            )
        ) as rows:
            for id_, arrived_at, body in rows:
                values, keys, headers = _body.decode(body)
                first = id_ - low
                begin = max(0, offset - first)
                end = min(len(values), begin + limit)
                if begin < end:
                    limit -= end - begin
                    cut = slice(begin, end)
                    yield _Part(
                        partition, first + begin, arrived_at, values[cut],
                        keys and keys[cut], headers and headers[cut], len(body),
                    )  # fmt: skip
                if limit == 0:
                    return

    def trim(self, offsets: Mapping[int, int]) -> None:
        with _faults_named(self.path), self._write_lock, _transaction(self._writer):
            for partition, before in offsets.items():
                self._drop(partition, before)

    def _drop(self, partition: int, before: int) -> None:
        """Deletes what lies before an offset, whole chunks only: the first one kept holds it."""
        low = partition << _SHIFT
        self._writer.execute(
            "DELETE FROM chunk WHERE id >= :low AND id + records <= :before AND id < :before",
            {"low": low, "before": low + before},
        )
        self._writer.execute(
            "UPDATE log_partition SET first_offset = coalesce((SELECT min(id) - :low FROM chunk"
            " WHERE id >= :low AND id < :high), next_offset) WHERE id = :partition",
            {"partition": partition, "low": low, "high": (partition + 1) << _SHIFT},
        )

    def close(self) -> None:
        with self._write_lock, self._read_lock:
            self._writer.close()
            self._reader.close()


class _Part(msgspec.Struct, frozen=True, gc=False):
    """Records of one chunk: `first` is the offset of the first one, `size` the chunk's bytes."""

    partition: int
    first: int
    arrived_at: int
    values: list[bytes]
    keys: Keys | None
    headers: list[dict[str, bytes] | None] | None
    size: int


def _joined(parts: list[_Part], offsets: Mapping[int, int]) -> Batch:
    lengths = np.array([len(p.values) for p in parts], np.int64)
    total = int(lengths.sum())
    begins = np.cumsum(lengths) - lengths
    first = np.array([p.first for p in parts], np.int64)
    values: list[bytes] = []
    keys: Keys = []
    headers: list[Headers | None] = []
    after = dict(offsets)
    for part in parts:
        values += part.values
        nothing = [None] * len(part.values)
        keys += part.keys or nothing
        headers += part.headers or nothing
        after[part.partition] = part.first + len(part.values)
    return Batch(
        partitions=np.repeat(np.array([p.partition for p in parts], np.int32), lengths),
        offsets=np.arange(total, dtype=np.int64) + np.repeat(first - begins, lengths),
        arrived_at=np.repeat(np.array([p.arrived_at for p in parts], np.int64), lengths),
        values=values,
        keys=keys,
        headers=headers,
        next=after,
    )


def _split(places: Sequence[int], sizes: Sequence[int]) -> Iterator[Sequence[int]]:
    """The places in runs of one chunk each: by number, and by bytes where records are large."""
    begin, size = 0, 0
    for at, place in enumerate(places):
        if at > begin and (at - begin == CHUNK_RECORDS or size + sizes[place] > CHUNK_BYTES):
            yield places[begin:at]
            begin, size = at, 0
        size += sizes[place]
    yield places[begin:]


def _encoded(one: _Append, places: Sequence[int]) -> bytes:
    keys = [one.keys[at] for at in places]
    headers = [one.headers[at] for at in places]
    return msgspec.msgpack.encode(
        (
            [one.values[at] for at in places],
            keys if any(key is not None for key in keys) else None,
            headers if any(headers) else None,
        )
    )


def _make_file(path: Path, partitions: int) -> None:
    """Makes the whole file aside and links it in, so that no one meets a half-made topic."""
    aside = path.with_name(f".{path.name}.{new_id()}")
    try:
        with closing(sqlite3.connect(aside)) as made:
            made.executescript(_SCHEMA)
            made.execute("INSERT INTO topic (identity) VALUES (?)", (new_id(),))
            made.executemany("INSERT INTO log_partition VALUES (?, 0, 0)", [(p,) for p in range(partitions)])
            made.commit()
            made.execute("PRAGMA journal_mode = WAL")
        aside.chmod(0o600)
        try:
            os.link(aside, path)
        except FileExistsError:
            return  # another process was first: its topic stands
    finally:
        aside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _connect(path: Path) -> sqlite3.Connection:
    # One thread at a time uses it, under the topic's lock, but not always the same one.
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _faults_named(path: Path) -> Iterator[None]:
    """SQLite's errors as Unavailable, with what to do."""
    try:
        yield
    except msgspec.DecodeError as error:
        raise _damaged(path, str(error)) from error
    except sqlite3.DatabaseError as error:
        text = str(error)
        if is_locked(text):
            raise Unavailable(
                f"another process has had the topic's file locked for {BUSY_SECONDS} s",
                where=str(path),
                remedy="End the process that holds it (fuser names it), then try again.",
            ) from error
        if "malformed" in text or "not a database" in text or "no such table" in text:
            raise _damaged(path, text) from error
        raise Unavailable(
            f"the topic's file cannot be used: {text}",
            where=str(path),
            remedy="Look at the disk's free space and at the file's rights.",
        ) from error


def _damaged(path: Path, what: str) -> Unavailable:
    return Unavailable(
        f"the topic's file is damaged: {what}",
        where=str(path),
        remedy="Put back a copy of it; or move it away and start the topic anew: its table keeps its rows.",
    )
