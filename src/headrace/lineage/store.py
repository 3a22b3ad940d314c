"""The lineage store: one SQLite file of runs, their OpenLineage events, and the progress of sending them to
each endpoint."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from headrace.kernel.position import Position, decode_position, encode_position
from headrace.kernel.process import is_alive, mark_of
from headrace.kernel.run import Dataset, DatasetKind
from headrace.kernel.secrets import clean_text
from headrace.kernel.sqlite import name_errors, open_shared, transaction
from headrace.kernel.time import from_micros, micros, now_micros
from headrace.lineage.event import RunRecord, openlineage_event
from headrace.lineage.names import Names
from headrace.lineage.recorder import OutboxRecorder
from headrace.projects.checkout import Checkout, find_checkout

__all__ = ["Health", "RunRow", "Store"]

RunOutcome = Literal["RUNNING", "COMPLETE", "FAIL", "ABORT", "LOST"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS event (seq INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS event_run ON event (run);
CREATE TABLE IF NOT EXISTS run (
  id TEXT PRIMARY KEY, job TEXT NOT NULL, parent TEXT, outcome TEXT NOT NULL, started INTEGER NOT NULL,
  ended INTEGER, process TEXT NOT NULL, error TEXT, facts BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS run_started ON run (started);
CREATE INDEX IF NOT EXISTS run_job ON run (job, started);
CREATE TABLE IF NOT EXISTS edge (
  run TEXT NOT NULL, way TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, position TEXT NOT NULL,
  facts BLOB NOT NULL, PRIMARY KEY (run, way, kind, name, position)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS edge_dataset ON edge (kind, name, way, position);
CREATE TABLE IF NOT EXISTS sent (url TEXT PRIMARY KEY, seq INTEGER NOT NULL, refused INTEGER NOT NULL,
  failure TEXT, failed_at INTEGER);
CREATE TABLE IF NOT EXISTS dropped (id INTEGER PRIMARY KEY CHECK (id = 1), events INTEGER NOT NULL,
  reason TEXT NOT NULL, at INTEGER NOT NULL);
"""
_encoder = msgspec.json.Encoder(enc_hook=repr)  # a fact that JSON cannot hold is kept as its repr


class RunRow(Struct, frozen=True):
    """One run in the store.

    Attributes:
        id: the run's id.
        job: the run's job.
        parent: the id of the run that it is a part of.
        outcome: LOST if its process ended without an end event (kill -9, loss of power).
        started: when it started, in UTC.
        ended: when it ended, in UTC; None while it runs, or if it is lost.
        inputs: the datasets that it read, with positions and facts.
        outputs: the datasets that it wrote, with positions and facts.
        facts: counts, metrics, parameters.
        error: the message of a FAIL or ABORT.
    """

    id: str
    job: str
    parent: str | None
    outcome: RunOutcome
    started: datetime
    ended: datetime | None
    inputs: tuple[Dataset, ...]
    outputs: tuple[Dataset, ...]
    facts: dict[str, Any]
    error: str | None


class EndpointState(Struct, frozen=True):
    """The progress of sending the events to one endpoint.

    Attributes:
        url: the endpoint.
        waiting: the number of events that have not been sent.
        refused: the number of events that the endpoint did not accept.
        failure: why the last attempt failed; None: it succeeded.
    """

    url: str
    waiting: int
    refused: int
    failure: str | None


class Health(Struct, frozen=True):
    """The state of the store, for doctor.

    Attributes:
        events: the number of events that were written.
        dropped: the number of events that could not be written.
        reason: why the last of these could not be written.
        lost: the number of runs whose process ended without an end event.
        endpoints: the state of each endpoint.
    """

    events: int
    dropped: int
    reason: str | None
    lost: int
    endpoints: tuple[EndpointState, ...]


class Store:
    """The lineage store: a SQLite file in WAL mode, for its owner alone.

    Each method that reads or writes it raises Unavailable if the file is locked, its disk is full, or it cannot
    be used for another reason.

    Args:
        path: the file; it is created if it does not exist.
        names: the namespaces of jobs and datasets.
        code: the folder of the project's code, whose git checkout events name; None: they name no checkout.
    """

    def __init__(self, path: Path, names: Names, code: Path | None = None) -> None:
        self.path = path
        self._names = names
        self._code = code
        self._process = mark_of()
        self._local = threading.local()

    def recorder(self) -> OutboxRecorder:
        """A recorder that writes to this store, for kernel.run.record_with."""
        return OutboxRecorder(self._write)

    def run(self, id: str) -> RunRow | None:
        """The run of this id, or None."""
        rows = self._runs("SELECT * FROM run WHERE id = ?", [id])
        return rows[0] if rows else None

    def runs(
        self,
        job: str | None = None,
        dataset: tuple[DatasetKind, str] | None = None,
        limit: int = 50,
        *,
        digest: str | None = None,
    ) -> list[RunRow]:
        """The runs, the newest first: all, or only those of a job, those that used a dataset (kind, name), and
        those that read a file of this digest."""
        where, values = ["1"], list[Any]()
        if job is not None:
            where.append("job = ?")
            values.append(job)
        if dataset is not None:
            where.append("id IN (SELECT run FROM edge WHERE kind = ? AND name = ?)")
            values.extend(dataset)
        if digest is not None:
            where.append(
                "id IN (SELECT run FROM edge WHERE kind = 'file' AND way = 'in'"
                " AND json_extract(CAST(facts AS TEXT), '$.digest') = ?)"
            )
            values.append(digest)
        query = f"SELECT * FROM run WHERE {' AND '.join(where)} ORDER BY started DESC, id DESC LIMIT ?"  # noqa: S608
        return self._runs(query, [*values, limit])

    def producer(self, kind: DatasetKind, name: str, position: Position | None = None) -> RunRow | None:
        """The run that wrote the dataset at exactly this position; without a position, the last that wrote it.

        A run that failed or was lost counts too: it may have written the dataset before.
        """
        producers = self._neighbours("out", kind, name, position, limit=1)
        return producers[0] if producers else None

    def readers(self, kind: DatasetKind, name: str, position: Position | None = None) -> list[RunRow]:
        """The runs that read the dataset (at exactly this position), the newest first."""
        return self._neighbours("in", kind, name, position, limit=200)

    def events(self, run_id: str) -> list[dict[str, Any]]:
        """The OpenLineage events of a run, in their order."""
        with self._transaction() as db:
            rows = db.execute("SELECT body FROM event WHERE run = ? ORDER BY seq", [run_id]).fetchall()
        return [msgspec.json.decode(body) for (body,) in rows]

    def unsent(self, url: str, limit: int) -> list[tuple[int, bytes]]:
        """The next events to send to an endpoint: (sequence number, OpenLineage JSON)."""
        with self._transaction() as db:
            return db.execute(
                "SELECT seq, body FROM event WHERE seq > coalesce((SELECT seq FROM sent WHERE url = ?), 0)"
                " ORDER BY seq LIMIT ?",
                [clean_text(url), limit],
            ).fetchall()

    def mark_sent(self, url: str, seq: int, *, refused: str | None = None) -> None:
        """Records that the endpoint has received all events up to `seq`.

        Args:
            url: the endpoint.
            seq: the last event that was sent.
            refused: why the endpoint did not accept that event.
        """
        with self._transaction(write=True) as db:
            db.execute(
                "INSERT INTO sent VALUES (?, ?, ?, ?, ?) ON CONFLICT (url) DO UPDATE SET"
                " seq = max(seq, excluded.seq), refused = refused + excluded.refused,"
                " failure = excluded.failure, failed_at = excluded.failed_at",
                [
                    clean_text(url),
                    seq,
                    int(refused is not None),
                    refused,
                    None if refused is None else now_micros(),
                ],
            )

    def mark_failed(self, url: str, failure: str) -> None:
        """Records why sending to the endpoint failed; it is tried again."""
        with self._transaction(write=True) as db:
            db.execute(
                "INSERT INTO sent VALUES (?, 0, 0, ?, ?) ON CONFLICT (url) DO UPDATE SET"
                " failure = excluded.failure, failed_at = excluded.failed_at",
                [clean_text(url), failure, now_micros()],
            )

    def health(self, urls: Sequence[str] = ()) -> Health:
        """The state of the store and of these endpoints."""
        with self._transaction() as db:
            (events,) = db.execute("SELECT count(*) FROM event").fetchone()
            dropped, reason = db.execute("SELECT events, reason FROM dropped").fetchone() or (0, None)
            open_runs = db.execute("SELECT process FROM run WHERE outcome = 'RUNNING'").fetchall()
            endpoints = []
            for url in map(clean_text, urls):
                row = db.execute("SELECT seq, refused, failure FROM sent WHERE url = ?", [url]).fetchone()
                seq, refused, failure = row or (0, 0, None)
                (waiting,) = db.execute("SELECT count(*) FROM event WHERE seq > ?", [seq]).fetchone()
                endpoints.append(EndpointState(url, waiting, refused, failure))
        lost = sum(not is_alive(process) for (process,) in open_runs)
        return Health(events, dropped, reason, lost, tuple(endpoints))

    def close(self) -> None:
        """Closes this thread's connection."""
        db = self._local.__dict__.pop("db", None)
        if db is not None:
            db.close()

    def _write(self, records: list[RunRecord], dropped: int, reason: str) -> None:
        """Writes records of runs and their OpenLineage events, in one transaction."""
        checkout = self._checkout
        with self._transaction(write=True) as db:
            for record in records:
                event = openlineage_event(record, self._names, self._process, checkout)
                if event is not None:
                    body = _encoder.encode(event)
                    db.execute("INSERT INTO event (run, body) VALUES (?, ?)", [record.run, body])
                self._write_run(db, record)
            if dropped:
                db.execute(
                    "INSERT INTO dropped VALUES (1, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
                    " events = events + excluded.events, reason = excluded.reason, at = excluded.at",
                    [dropped, reason, now_micros()],
                )

    @cached_property
    def _checkout(self) -> Checkout | None:
        """The checkout at this process's first write. The recorder's thread finds it, so that no work waits."""
        return None if self._code is None else find_checkout(self._code)

    def _write_run(self, db: sqlite3.Connection, record: RunRecord) -> None:
        outcome = "RUNNING" if record.outcome == "START" else record.outcome
        ended = None if outcome == "RUNNING" else micros(record.time)
        parent = record.parents[0][0] if record.parents else None
        error = None if record.error is None else record.error[0]
        started, facts = micros(record.started), _encoder.encode(record.facts)
        db.execute(
            "INSERT OR REPLACE INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                record.run,
                record.job,
                parent,
                outcome,
                started,
                ended,
                self._process,
                error,
                facts,
            ],
        )
        db.execute("DELETE FROM edge WHERE run = ?", [record.run])  # replaced by the run's current datasets
        for way, datasets in (("in", record.inputs), ("out", record.outputs)):
            db.executemany(
                "INSERT OR REPLACE INTO edge VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (record.run, way, d.kind, d.name, _position_text(d.position), _encoder.encode(d.facts))
                    for d in datasets
                ],
            )

    def _neighbours(
        self, way: str, kind: str, name: str, position: Position | None, limit: int
    ) -> list[RunRow]:
        query = "SELECT run FROM edge WHERE kind = ? AND name = ? AND way = ?"
        values: list[Any] = [kind, name, way]
        if position is not None:
            query += " AND position = ?"
            values.append(_position_text(position))
        return self._runs(
            f"SELECT * FROM run WHERE id IN ({query}) ORDER BY started DESC, id DESC LIMIT ?",  # noqa: S608
            [*values, limit],
        )

    def _runs(self, query: str, values: list[Any]) -> list[RunRow]:
        with self._transaction() as db:
            rows = db.execute(query, values).fetchall()
            return [self._row(db, row) for row in rows]

    def _row(self, db: sqlite3.Connection, row: tuple[Any, ...]) -> RunRow:
        run, job, parent, outcome, started, ended, process, error, facts = row
        if outcome == "RUNNING" and not is_alive(process):
            outcome = "LOST"
        edges: dict[str, list[Dataset]] = {"in": [], "out": []}
        for way, kind, name, position, known in db.execute(
            "SELECT way, kind, name, position, facts FROM edge WHERE run = ?", [run]
        ):
            at = decode_position(position) if position else None
            edges[way].append(Dataset(kind, name, at, msgspec.json.decode(known)))
        return RunRow(
            id=run,
            job=job,
            parent=parent,
            outcome=outcome,
            started=from_micros(started),
            ended=None if ended is None else from_micros(ended),
            inputs=tuple(edges["in"]),
            outputs=tuple(edges["out"]),
            facts=msgspec.json.decode(facts),
            error=error,
        )

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        with name_errors("the lineage store", self.path):
            if not write and not self.path.exists() and not os.access(self.path.parent, os.W_OK):
                with closing(sqlite3.connect(":memory:")) as empty:
                    empty.executescript(_SCHEMA)
                    yield empty
                return
            db = self._connection()
            with transaction(db, write=write):
                yield db

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            if not self.path.exists():
                self.path.touch(mode=0o600)
            db = open_shared(self.path, timeout=20)
            # NORMAL survives the process; a power cut can lose only the record of the last runs.
            db.execute("PRAGMA synchronous = NORMAL")
            db.executescript(_SCHEMA)
            self._local.db = db
        return db


def _position_text(position: Position | None) -> str:
    return "" if position is None else encode_position(position)
