"""The roles of the suite's processes. Each role runs in a child of the fork server.

The children report to the journal, one line of JSON for each report, so that the run knows when to inject
a fault and when its effect has been seen.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import confluent_kafka
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException
from tests.faults.audit import audit
from tests.faults.online import fill_online, load_suite_project, write_code
from tests.faults.poison import POISON, TOO_LARGE, event
from tests.faults.setup import UNSTORED, Report, Setup
from tests.faults.sqlite_sink import SqliteSink

from headrace import log
from headrace.events import quarantine
from headrace.events.ingest import ingest
from headrace.events.ingest import maintenance as ingest_maintenance
from headrace.features import online
from headrace.features.online import sqlite as online_sqlite
from headrace.features.online.follow import OnlineSink
from headrace.kernel import faults
from headrace.kernel.errors import ProjectError, TooLarge, Unavailable
from headrace.lake import (
    LakeTable,
    catalog,
    compaction,
    expiry,
    files,
    lease,
    maintenance,
    orphan_files,
    write,
)
from headrace.lake.lake import open as open_lake
from headrace.log.kafka import member as kafka_member
from headrace.log.kafka import writer as kafka_writer
from headrace.log.sqlite import connection as sqlite_connection
from headrace.log.sqlite import member as sqlite_member

__all__ = ["ROLES", "tune", "warm"]

CHUNK = 20  # events an append
BRIEF = 60_000_000  # microseconds after which a write that has begun is no longer committed
GRACE = timedelta(seconds=100)  # longer than BRIEF, and longer than any process hangs here


def tune() -> None:
    """Shrinks batches and intervals, so that commits, expiries and maintenance happen many times a second."""
    for module, values in (
        (ingest, {"BATCH": 60, "TRICKLE": 20, "PAUSE": 0.03, "LEAD_PAUSE": 0.03, "TICK": 0.01, "RETRY": 0.3}),
        (ingest_maintenance, {"COMMITS": 40}),
        (sqlite_member, {"SESSION_SECONDS": 2.0, "REFRESH_SECONDS": 0.1}),
        (kafka_member, {"SESSION_MS": 2_000}),
        (expiry, {"NEWEST": 5, "_SLACK": 2}),
        # Longer than a compaction takes on a busy machine: otherwise the processes take the lease from each
        # other, and none gets past its compaction.
        (lease, {"SECONDS": 5.0}),
        (write, {"BRIEF": BRIEF}),
        (compaction, {"BRIEF": BRIEF, "_FILES": 50}),
        (catalog, {"BUSY_SECONDS": 1}),
        (sqlite_connection, {"BUSY_SECONDS": 1}),
        (online_sqlite, {"_WAIT": 1.0}),
        (kafka_writer, {"TRANSACTION_MS": 60_000}),  # longer than a broker is down: see _use_transaction_name
    ):
        for name, value in values.items():
            assert hasattr(module, name), f"{module.__name__} has no {name}"
            setattr(module, name, value)
    _break_encoder()


def _break_encoder() -> None:
    """Makes events that no data file can hold. None is known: a table can hold what its contract admits."""
    parquet = SimpleNamespace(**vars(files.pq))
    parquet.ParquetWriter = _FailingWriter
    files.pq = parquet  # type: ignore[assignment]


class _FailingWriter(pq.ParquetWriter):
    def write(self, rows: Any, *arguments: Any, **options: Any) -> None:
        if pc.any(pc.match_substring(rows["note"], UNSTORED)).as_py():
            raise OverflowError("this event cannot be stored")
        super().write(rows, *arguments, **options)


def warm() -> None:
    """Compiles SQLAlchemy's statements before any fork, since the first use is slow. Leaves nothing open."""
    warm_catalog = SqlCatalog("warm", uri="sqlite:///:memory:", warehouse="file:///nowhere")
    warm_catalog.create_namespace("warm")
    warm_catalog.list_tables("warm")
    warm_catalog.table_exists("warm.table")
    warm_catalog.engine.dispose()
    gc.freeze()  # else a child's garbage collector copies the pages that it shares with its parent


def work(setup: Setup, report: Report, *, fixed: bool = False, until_end: bool = False) -> None:
    """Ingests until SIGTERM or until the log's end. Starts again while something is unavailable."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGUSR1, lambda *_: _arm(setup, report))
    logging.getLogger("headrace").addHandler(_WarningHandler(report))
    _report_conflicts(report)

    def report_commit(progress: ingest.Progress) -> None:
        report("commit", offsets=progress.position.offsets, events=progress.events)

    contract = setup.contract(fixed)
    while not stop.is_set():
        try:
            with (
                closing(log.open(setup.settings.log.url)) as events,
                closing(SqliteSink(setup.disk / "sink.db")) as sink_db,
                closing(online.open(setup.settings)) as store,
            ):
                project, lake = load_suite_project(setup.settings, contract), open_lake(setup.settings)
                sinks = [sink_db, OnlineSink(project, contract, store, lake)]
                ingest.ingest_all(
                    [contract],
                    events,
                    lake,
                    until_end=until_end,
                    stop=stop,
                    open_sinks=lambda _: sinks,  # noqa: B023 - it is called in this iteration
                    hooks=ingest.IngestHooks(report_commit),
                )
            return
        except (Unavailable, ProjectError) as error:  # the code was edited meanwhile
            report("unavailable", text=str(error)[:1000])
            time.sleep(0.1)


def _arm(setup: Setup, report: Report) -> None:
    report("armed")
    os.environ[faults.VARIABLE] = (setup.notes / f"fault-{os.getpid()}").read_text()
    faults._times_reached.clear()


class _WarningHandler(logging.Handler):
    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        self._report("warning", text=record.getMessage()[:1000])


def _report_conflicts(report: Report) -> None:
    """Reports each commit that the catalog refuses because another writer committed first."""
    for kind in (SqlCatalog, RestCatalog):
        plain = kind.commit_table

        def commit_table(self: Any, *arguments: Any, plain: Any = plain) -> Any:
            try:
                return plain(self, *arguments)
            except CommitFailedException:
                report("conflict")
                raise

        kind.commit_table = commit_table


def produce(setup: Setup, report: Report, *, name: str, first: int, orders: int) -> None:
    """Appends as many events as each order asks for. Notes the events before it sends them and their positions
    afterwards: an event with a position is acknowledged.

    Args:
        name: its name, unique among the producers that are alive.
        first: the number of its first event.
        orders: the file descriptor of its orders. Each line holds how many events to append, and the kind of
            poison among them.
    """
    _use_transaction_name(name)
    rng = random.Random(first)
    number = first
    old: list[int] = []  # the numbers of acknowledged good events, to send again
    with (
        (setup.notes / f"sent-{first}").open("ab", 0) as sent,
        os.fdopen(orders) as lines,
    ):
        events = _open_log(setup, report)
        for line in lines:
            if line == "end\n":
                break
            count, poison = json.loads(line)
            for begin in range(0, count, CHUNK):
                kinds = [_kind(rng) for _ in range(min(CHUNK, count - begin))]
                if poison in POISON and not begin:
                    kinds.insert(rng.randrange(len(kinds)), poison)
                chunk = []
                for kind in kinds:
                    if kind == "again" and old:
                        chunk.append(("good", rng.choice(old[-200:])))
                    elif kind == "conflict" and old:
                        chunk.append((kind, rng.choice(old[-200:])))
                    else:
                        chunk.append(("good" if kind in ("again", "conflict") else kind, number))
                        number += 1
                try:
                    if poison == TOO_LARGE and not begin:
                        _append_too_large(events, setup.topic, chunk)
                except Unavailable as error:
                    report("unavailable", text=str(error)[:1000])
                    continue
                sent.write(json.dumps({"sent": chunk}).encode() + b"\n")
                try:
                    at = events.append(
                        setup.topic,
                        [event(kind, number) for kind, number in chunk],
                        [b"%d" % n for _, n in chunk],
                    )
                except Unavailable as error:  # the append is in doubt: its events are never sent again
                    report("unavailable", text=str(error)[:1000])
                    continue
                sent.write(json.dumps({"at": at}).encode() + b"\n")
                old += [n for kind, n in chunk if kind == "good"]
                refused = [TOO_LARGE] if poison == TOO_LARGE and not begin else []
                report("ack", at=at, poison=refused + [kind for kind in kinds if kind in POISON])
            if poison == "tombstone":
                _append_tombstone(setup, sent, report)
        events.close()


def _use_transaction_name(name: str) -> None:
    """Names this process's Kafka transactions. The next process of the same name aborts the transaction that a
    killed one left open; without that, readers would wait until it times out."""
    kafka_writer.new_id = lambda: name


def _kind(rng: random.Random) -> str:
    kinds = {"good": 77, "again": 8, "conflict": 3, "mendable": 5, "broken": 7}
    return rng.choices([*kinds], [*kinds.values()])[0]


def _open_log(setup: Setup, report: Report) -> log.Log:
    while True:
        try:
            events = log.open(setup.settings.log.url)
            events.create(setup.topic, setup.partitions)
            return events
        except Unavailable as error:
            report("unavailable", text=str(error)[:1000])


def _append_too_large(events: log.Log, topic: str, chunk: list[tuple[str, int]]) -> None:
    """Tries to append a chunk with one record that the log does not take: none of the chunk may be appended,
    and the error must name the place of that record alone."""
    values = [event(kind, number) for kind, number in chunk]
    place = len(values) // 2
    values.insert(place, b" " * (events.largest(topic) + 1))
    try:
        events.append(topic, values, [b"0"] * len(values))
    except TooLarge as error:
        if error.places != (place,):
            raise AssertionError(f"the record at {place} was refused as {error.places}") from error
    else:
        raise AssertionError("a record larger than the log takes was appended")


def _append_tombstone(setup: Setup, sent: Any, report: Report) -> None:
    """Appends a record without a value. Kafka's producers can send one, Headrace's log cannot."""
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": setup.log.removeprefix("kafka://"), "acks": "all"}
    )
    at: list[tuple[int, int]] = []
    sent.write(json.dumps({"sent": [("tombstone", -1)]}).encode() + b"\n")
    producer.produce(
        setup.topic,
        None,
        b"tombstone",
        on_delivery=lambda error, message: (
            None if error else at.append((message.partition(), message.offset()))
        ),
    )
    producer.flush(30)
    if at:
        sent.write(json.dumps({"at": at}).encode() + b"\n")
        report("ack", at=at, poison=["tombstone"])


def maintain(setup: Setup, report: Report) -> None:
    """Compacts, expires and deletes repeatedly until SIGTERM.

    It lists files each time: if it waited as long as others do, the workers' maintenance might always be first.
    """
    orphan_files._OFTEN = 1 << 62
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    while signal.sigtimedwait({signal.SIGTERM}, 0.05) is None:
        try:
            changes = maintenance.maintain(
                _open_table(setup), older_than=timedelta(0), grace=GRACE, longest_write=GRACE
            )
            report("maintained", compacted=changes.compacted, expired=changes.expired, deleted=changes.deleted)
        except Unavailable as error:
            report("unavailable", text=str(error)[:1000])


def interfere(setup: Setup, report: Report) -> None:
    """Commits appends and properties to the table until SIGTERM, as another tool would."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    events_table = _open_table(setup)
    name, commits = f"interfering.{os.getpid()}", 0
    while signal.sigtimedwait({signal.SIGTERM}, 0) is None:
        commits += 1
        events_table.append(
            events_table.schema().empty_table(), facts={"headrace.of": name}, properties={name: str(commits)}
        )
        events_table.set_properties({f"{name}.too": str(commits)})
        report("interfered", properties={name: str(commits), f"{name}.too": str(commits)})


def _open_table(setup: Setup) -> LakeTable:
    return open_lake(setup.settings).table(setup.contract().table)


def replay(setup: Setup, report: Report) -> None:
    """Replays the events that were refused for their price."""
    _use_transaction_name("replay")
    with closing(log.open(setup.settings.log.url)) as events:
        lake = open_lake(setup.settings)
        selection = quarantine.QuarantineSelection(code="out_of_range")
        report("replaying")
        result = quarantine.replay(setup.contract(), lake, events, selection)
    report("replayed", count=result.events)


def edit(setup: Setup, report: Report, *, edited: bool) -> None:
    """Writes the project's code."""
    write_code(setup.settings, edited=edited)


def build(setup: Setup, report: Report, *, fixed: bool) -> None:
    """Fills the online state for the project's present code."""
    project = load_suite_project(setup.settings, setup.contract(fixed))
    fill_online(setup.settings, project, open_lake(setup.settings))


def lock(setup: Setup, report: Report, *, path: str) -> None:
    """Locks a SQLite file until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        report("locked")
        signal.sigwait({signal.SIGTERM})
        db.execute("ROLLBACK")


def fill(setup: Setup, report: Report) -> None:
    """Fills the disk and keeps it full until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    path = setup.disk / "ballast"
    with path.open("wb", 0) as ballast:
        size = 0
        while signal.sigtimedwait({signal.SIGTERM}, 0.02) is None:
            for step in (1 << 24, 1 << 20, 1 << 12):
                with suppress(OSError):  # the disk has no room for a step of this size
                    while True:
                        os.posix_fallocate(ballast.fileno(), size, step)
                        size += step
    path.unlink()


def count(setup: Setup, report: Report, *, edited: bool) -> None:
    """Audits the table, the sink and the online state against what was sent."""
    report("audited", **audit(setup, edited))


ROLES: dict[str, Callable[..., None]] = {
    "work": work,
    "produce": produce,
    "maintain": maintain,
    "interfere": interfere,
    "replay": replay,
    "edit": edit,
    "build": build,
    "lock": lock,
    "fill": fill,
    "count": count,
}
