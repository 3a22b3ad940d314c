"""What the processes of the suite do: each of these runs in a child of the fork server.

What they meet they tell in the journal, one line of JSON each, so that whoever strikes knows when.
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
from typing import Any

import confluent_kafka
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException
from tests.faults.audit import audit
from tests.faults.poison import POISON, event
from tests.faults.setup import Report, Setup
from tests.faults.sqlite_sink import SqliteSink

from headrace import log
from headrace.events import quarantine
from headrace.events.ingest import ingest
from headrace.events.ingest import maintenance as ingest_maintenance
from headrace.kernel import faults
from headrace.kernel.errors import Unavailable
from headrace.lake import LakeTable, catalog, compaction, expiry, lease, maintenance, table
from headrace.lake.lake import open as open_lake
from headrace.log.kafka import member as kafka_member
from headrace.log.kafka import writer as kafka_writer
from headrace.log.sqlite import connection as sqlite_connection
from headrace.log.sqlite import member as sqlite_member

__all__ = ["ROLES", "tune", "warm"]

CHUNK = 20  # events an append
BRIEF = 20_000_000  # microseconds from a write's begin, after which it is not committed any more
GRACE = timedelta(seconds=45)  # longer than that, and than anything here hangs


def tune() -> None:
    """Makes everything small and quick, so that each second holds many commits, expiries and maintenances."""
    for module, values in (
        (ingest, {"BATCH": 60, "TRICKLE": 20, "PAUSE": 0.03, "RETRY": 0.3}),
        (ingest_maintenance, {"COMMITS": 40}),
        (sqlite_member, {"SESSION_SECONDS": 2.0, "REFRESH_SECONDS": 0.1}),
        (kafka_member, {"SESSION_MS": 2_000}),
        (expiry, {"NEWEST": 5, "_SLACK": 2}),
        (lease, {"SECONDS": 1.0}),
        (table, {"BRIEF": BRIEF}),
        (compaction, {"BRIEF": BRIEF}),
        (catalog, {"BUSY_SECONDS": 1}),
        (sqlite_connection, {"BUSY_SECONDS": 1}),
        (kafka_writer, {"TRANSACTION_MS": 60_000}),  # none runs out while a broker is away: see _writes_as
    ):
        for name, value in values.items():
            assert hasattr(module, name), f"{module.__name__} has no {name} any more"
            setattr(module, name, value)


def warm() -> None:
    """Meets once what is slow the first time: SQLAlchemy's compiled statements. Nothing of it stays open."""
    one = SqlCatalog("warm", uri="sqlite:///:memory:", warehouse="file:///nowhere")
    one.create_namespace("warm")
    one.list_tables("warm")
    one.table_exists("warm.one")
    one.engine.dispose()
    gc.freeze()  # a child's collector writes to no page that it shares


def work(setup: Setup, report: Report, *, fixed: bool = False, until_end: bool = False) -> None:
    """Ingests until SIGTERM, or until the log's end; started again while something is away."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGUSR1, lambda *_: _arm(setup, report))
    logging.getLogger("headrace").addHandler(_WarningHandler(report))
    _report_conflicts(report)

    def tell(progress: ingest.Progress) -> None:
        report("commit", offsets=progress.position.offsets, events=progress.events)

    while not stop.is_set():
        try:
            with (
                closing(log.open(setup.settings.log.url)) as events,
                closing(SqliteSink(setup.disk / "sink.db")) as sink_db,
            ):
                ingest.ingest_all(
                    [setup.contract(fixed)], events, open_lake(setup.settings),
                    until_end=until_end, stop=stop, open_sinks=lambda _: [sink_db],
                hooks=ingest.IngestHooks(tell), )  # fmt: skip
            return
        except Unavailable as error:
            report("away", text=str(error)[:1000])
            time.sleep(0.1)


def _arm(setup: Setup, report: Report) -> None:
    report("armed")
    os.environ[faults.VARIABLE] = (setup.notes / f"fault-{os.getpid()}").read_text()
    faults._times_reached.clear()


class _WarningHandler(logging.Handler):
    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self._say = report

    def emit(self, record: logging.LogRecord) -> None:
        self._say("warning", text=record.getMessage()[:1000])


def _report_conflicts(report: Report) -> None:
    """Tells of each commit that the catalog refused because another writer's came first."""
    for kind in (SqlCatalog, RestCatalog):
        plain = kind.commit_table

        def told(self: Any, *given: Any, plain: Any = plain) -> Any:
            try:
                return plain(self, *given)
            except CommitFailedException:
                report("beaten")
                raise

        kind.commit_table = told


def produce(setup: Setup, report: Report, *, name: str, first: int, orders: int) -> None:
    """Appends as many events as it is told to, again and again, and writes down what it sends before
    it does and where it went after: only the latter is acknowledged.

    Args:
        name: one that no other that lives has.
        first: the number of its first event.
        orders: where it reads, a line each, how many, and which poison is to be among them.
    """
    _writes_as(name)
    chance = random.Random(first)
    number = first
    old: list[int] = []  # acknowledged good ones, to send again
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
                kinds = [_kind(chance) for _ in range(min(CHUNK, count - begin))]
                if poison in POISON and not begin:
                    kinds.insert(chance.randrange(len(kinds)), poison)
                chunk = []
                for kind in kinds:
                    if kind == "again" and old:
                        chunk.append(("good", chance.choice(old[-200:])))
                    else:
                        chunk.append(("good" if kind == "again" else kind, number))
                        number += 1
                sent.write(json.dumps({"sent": chunk}).encode() + b"\n")
                try:
                    at = events.append(
                        setup.topic, [event(*one) for one in chunk], [b"%d" % n for _, n in chunk]
                    )
                except Unavailable as error:  # it may be in or not: it is never sent again
                    report("away", text=str(error)[:1000])
                    continue
                sent.write(json.dumps({"at": at}).encode() + b"\n")
                old += [n for kind, n in chunk if kind == "good"]
                report("ack", at=at, poison=[kind for kind in kinds if kind in POISON])
            if poison == "tombstone":
                _bury(setup, sent, report)
        events.close()


def _writes_as(name: str) -> None:
    """Kafka: whoever comes next under this name ends what its killed predecessor left open. Else readers
    would wait each time until it runs out."""
    kafka_writer.new_id = lambda: name


def _kind(chance: random.Random) -> str:
    return chance.choices(["good", "again", "mendable", "broken"], [80, 8, 5, 7])[0]


def _open_log(setup: Setup, report: Report) -> log.Log:
    while True:
        try:
            events = log.open(setup.settings.log.url)
            events.create(setup.topic, setup.partitions)
            return events
        except Unavailable as error:
            report("away", text=str(error)[:1000])


def _bury(setup: Setup, sent: Any, report: Report) -> None:
    """A record without a value, as Kafka's own producers may send and this log's port cannot."""
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": setup.log.removeprefix("kafka://"), "acks": "all"}
    )
    at: list[tuple[int, int]] = []
    sent.write(json.dumps({"sent": [("tombstone", -1)]}).encode() + b"\n")
    producer.produce(
        setup.topic, None, b"gone",
        on_delivery=lambda error, it: None if error else at.append((it.partition(), it.offset())),
    )  # fmt: skip
    producer.flush(30)
    if at:
        sent.write(json.dumps({"at": at}).encode() + b"\n")
        report("ack", at=at, poison=["tombstone"])


def keep(setup: Setup, report: Report) -> None:
    """Compacts, expires and deletes again and again, until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    while signal.sigtimedwait({signal.SIGTERM}, 0.05) is None:
        try:
            kept = maintenance.maintain(
                _table(setup), older_than=timedelta(0), grace=GRACE, longest_write=GRACE
            )
            report("kept", compacted=kept.compacted, expired=kept.expired, deleted=kept.deleted)
        except Unavailable as error:
            report("away", text=str(error)[:1000])


def meddle(setup: Setup, report: Report) -> None:
    """Commits to the table as another tool would, appends and properties, until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    theirs = _table(setup)
    mine, done = f"meddler.{os.getpid()}", 0
    while signal.sigtimedwait({signal.SIGTERM}, 0) is None:
        theirs.append(
            theirs.schema().empty_table(), facts={"headrace.of": mine}, properties={mine: str(done + 1)}
        )
        theirs.set_properties({f"{mine}.too": str(done + 1)})
        done += 1
        report("meddled", properties={mine: str(done), f"{mine}.too": str(done)})


def _table(setup: Setup) -> LakeTable:
    return open_lake(setup.settings).table(setup.contract().table)


def replay(setup: Setup, report: Report) -> None:
    """Puts what waits for its price on the log once more."""
    _writes_as("replay")
    with closing(log.open(setup.settings.log.url)) as events:
        lake = open_lake(setup.settings)
        selection = quarantine.QuarantineSelection(code="out_of_range")
        report("replaying")
        done = quarantine.replay(setup.contract(), lake, events, selection)
    report("replayed", count=done.events)


def hold(setup: Setup, report: Report, *, path: str) -> None:
    """Locks a SQLite file until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        report("held")
        signal.sigwait({signal.SIGTERM})
        db.execute("ROLLBACK")


def fill(setup: Setup, report: Report) -> None:
    """Fills the disk, and keeps it full, until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    path = setup.disk / "ballast"
    with path.open("wb", 0) as ballast:
        size = 0
        while signal.sigtimedwait({signal.SIGTERM}, 0.02) is None:
            for step in (1 << 24, 1 << 20, 1 << 12):
                with suppress(OSError):  # there is no room for so much
                    while True:
                        os.posix_fallocate(ballast.fileno(), size, step)
                        size += step
    path.unlink()


def look(setup: Setup, report: Report) -> None:
    """Counts what is in the table and in the sink against what was sent."""
    report("audited", **audit(setup))


ROLES: dict[str, Callable[..., None]] = {
    "work": work,
    "produce": produce,
    "keep": keep,
    "meddle": meddle,
    "replay": replay,
    "hold": hold,
    "fill": fill,
    "look": look,
}
