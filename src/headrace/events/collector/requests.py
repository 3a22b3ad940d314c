"""The store of Idempotency-Keys: a repeated request is answered again, not appended again, even if the
collector was killed between the append and the answer.

No transaction spans the log and this file. So the intent is written first: the key, and the ends of the topic
at that time. The events carry the key in a header. If a key has an intent but no answer, the log is searched
from those ends: its events were appended only if they are found there.

A key is forgotten when this machine has run for a day since, whatever its wall clock says: a clock that is set
ahead, or that is wrong when the machine starts, would otherwise make a retry a new request.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec import Struct

from headrace.http.responses import HttpError
from headrace.kernel.private import make_private
from headrace.kernel.process import is_alive, mark_of
from headrace.kernel.properties import REQUEST
from headrace.kernel.sqlite import name_errors, open_shared, transaction
from headrace.kernel.time import now_micros
from headrace.kernel.uptime import boot_id, uptime_micros
from headrace.log import Log
from headrace.log.follow import read_to_end

__all__ = ["IdempotencyKey", "IdempotencyStore", "StoredAnswer"]


Positions = list[tuple[int, int]]
_DAY = 86_400_000_000
_READ = 10_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS request (
  topic TEXT NOT NULL, key BLOB NOT NULL, body BLOB NOT NULL, log TEXT NOT NULL, ends BLOB NOT NULL,
  events INTEGER NOT NULL, process TEXT NOT NULL, at INTEGER NOT NULL, answer BLOB,
  PRIMARY KEY (topic, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS request_at ON request (at);
CREATE TABLE IF NOT EXISTS clock (boot TEXT NOT NULL, uptime INTEGER NOT NULL, now INTEGER NOT NULL);
"""
# `at` and `now` are microseconds since 1970 by a clock that began as the wall clock, and counts only uptime.


class IdempotencyKey(Struct, frozen=True):
    """The digests of a request's Idempotency-Key and of its content."""

    key: bytes
    body: bytes

    @staticmethod
    def of(key: bytes, query: bytes, body: bytes) -> IdempotencyKey:
        """The key of a request with this query string and body."""
        return IdempotencyKey(sha256(key).digest(), sha256(query + b"\n" + body).digest())


class StoredAnswer(Struct, frozen=True):
    """The answer to the first request under a key."""

    answer: bytes


class IdempotencyStore:
    """The requests of the last day that this machine has run, in a SQLite file.

    Only one thread at a time may use it.

    Args:
        path: the file; it is created (0600) if it does not exist.
        log: the log that the events are appended to.

    Raises:
        Unavailable: another process keeps the file locked, or it cannot be opened.
    """

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log
        self._process = mark_of()
        with self._name_errors():
            make_private(path.parent)
            path.touch(mode=0o600)
            self._db = open_shared(path, timeout=20)
            self._db.executescript(_SCHEMA)
            first = "INSERT INTO clock SELECT ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM clock)"
            self._db.execute(first, [boot_id(), uptime_micros(), now_micros()])

    def find_outcome(self, topic: str, key: IdempotencyKey) -> StoredAnswer | Positions | None:
        """The outcome of an earlier request under this key; None if the key is new.

        It is the answer, or the positions of the events if they were appended but no answer was stored.

        Raises:
            HttpError: 422 if the key came with another body, 409 if the request is being handled.
        """
        with self._name_errors():
            row = self._db.execute(
                "SELECT body, log, ends, events, process, answer FROM request"
                " WHERE topic = ? AND key = ? AND at > ?",
                [topic, key.key, self._now() - _DAY],
            ).fetchone()
        if row is None:
            return None
        body, log, ends, events, process, answer = row
        if body != key.body:
            raise HttpError(
                422, "key_reused", "This Idempotency-Key came with another request.", field="Idempotency-Key"
            )
        if answer is not None:
            return StoredAnswer(answer)
        if process != self._process and is_alive(process):
            raise HttpError(
                409,
                "in_progress",
                "The first request under this key is being handled.",
                headers={"Retry-After": "1"},
            )
        if log != self._log.identity(topic):
            return None
        return self._find_appended(topic, key.key, msgspec.json.decode(ends, type=dict[int, int]), events)

    def intend(self, topic: str, keys: Sequence[tuple[IdempotencyKey, int]]) -> None:
        """Stores durably that the events of these requests are about to be appended.

        Args:
            topic: the topic.
            keys: the key and the number of events of each request.
        """
        ends = msgspec.json.encode(self._log.end(topic))
        log, at = self._log.identity(topic), self._now()
        self._commit(
            "INSERT OR REPLACE INTO request VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)",
            [(topic, k.key, k.body, log, ends, events, self._process, at) for k, events in keys],
            durable=True,
        )

    def store_answers(self, topic: str, answers: Sequence[tuple[IdempotencyKey, bytes]]) -> None:
        """Stores answers. They need not survive a power cut: the log shows what was appended."""
        self._commit(
            "UPDATE request SET answer = ? WHERE topic = ? AND key = ?",
            [(answer, topic, key.key) for key, answer in answers],
            durable=False,
        )

    def close(self) -> None:
        """Closes the file."""
        self._db.close()

    def _now(self) -> int:
        """The file's clock. It does not count the time between the last commit before the machine's end and the
        first one after its start: only the wall clock knows that time."""
        with self._name_errors():
            boot, uptime, now = self._db.execute("SELECT boot, uptime, now FROM clock").fetchone()
        return int(now + max(uptime_micros() - uptime, 0) if boot == boot_id() else now)

    def _commit(self, statement: str, rows: list[tuple[object, ...]], *, durable: bool) -> None:
        with self._name_errors():
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            with transaction(self._db):
                now = self._now()
                self._db.execute(
                    "UPDATE clock SET boot = ?, uptime = ?, now = ?", [boot_id(), uptime_micros(), now]
                )
                self._db.execute("DELETE FROM request WHERE at < ?", [now - _DAY])
                self._db.executemany(statement, rows)

    def _name_errors(self) -> AbstractContextManager[None]:
        return name_errors("the file of the last day's requests", self._path)

    def _find_appended(self, topic: str, key: bytes, ends: dict[int, int], events: int) -> Positions | None:
        """Finds the positions of a key's events on the log, from these offsets on; None: they are not there."""
        positions: list[tuple[int, int]] = []
        for batch in read_to_end(self._log, topic, ends, _READ):
            for at, headers in enumerate(batch.headers):
                if headers and headers.get(REQUEST) == key:
                    positions.append((int(batch.partitions[at]), int(batch.offsets[at])))
        return positions if len(positions) == events else None
