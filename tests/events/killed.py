"""A process that forks ingests and kills them, for test_faults.

It is warm (everything is imported) but has used nothing, so that a fork costs milliseconds and meets
no lock that a thread holds. Libraries' own idle threads (allocators') are safe to fork beside.
Each line of its input is an order, each line of its output says how the child ended.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from tests.events.clicks import Click

from headrace import log
from headrace.config.settings import Profile, Settings
from headrace.declare.event import contract_of
from headrace.events import ingest, keeping
from headrace.events.forward import ForwardSink
from headrace.events.watch import Watch
from headrace.kernel import faults
from headrace.kernel.position import LogPosition, decode_position, encode_position
from headrace.lake import catalog, expiry


class Shelf:
    """A sink with a transaction of its own: a SQLite file of the users taken, and the position."""

    name = "shelf"

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS taken (user INTEGER)")
        self._db.execute("CREATE TABLE IF NOT EXISTS position (text TEXT)")
        self._db.commit()

    def position(self) -> LogPosition | None:
        row = self._db.execute("SELECT text FROM position").fetchone()
        return None if row is None else decode_position(row[0])  # type: ignore[return-value]

    def apply(self, good: pa.Table, position: LogPosition) -> None:
        offsets = list(zip(good["_log_partition"].to_pylist(), good["_log_offset"].to_pylist(), strict=True))
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")  # several ingests may feed it at once
            done = self.position() or LogPosition(position.topic, position.log_id)
            users = [
                (user,)
                for user, (partition, offset) in zip(good["user"].to_pylist(), offsets, strict=True)
                if not done.covers(partition, offset)
            ]
            self._db.executemany("INSERT INTO taken VALUES (?)", users)
            self._db.execute("DELETE FROM position")
            moved = encode_position(done.further(position.offsets))
            self._db.execute("INSERT INTO position VALUES (?)", (moved,))


def settings_of(folder: Path) -> Settings:
    return Settings(folder, "scratch", "local", Profile(), folder / "state")


def ingest_once(folder: Path, begun: int) -> None:
    """Ingests what the log holds, in small commits; writes a byte to `begun` after its first one."""
    ingest.BATCH, ingest.TRICKLE, keeping.KEEP = 60, 0, 40
    expiry.NEWEST, expiry._SLACK = 5, 2  # so that expiry is met every other commit
    contract = contract_of(Click)
    assert contract is not None
    settings = settings_of(folder)
    one = ingest.Ingest(
        contract, log.open(settings.log_url), catalog.open(settings), [Shelf(folder / "shelf.db")]
    )
    told: list[ingest.Progress] = []

    def tell(progress: ingest.Progress) -> None:
        if not told:
            os.write(begun, b".")
        told.append(progress)

    one.run(until_end=True, stop=threading.Event(), tell=tell)


def watch_once(folder: str) -> None:
    """Ingests what the log holds and looks at the rates, as `headrace ingest --until-end` does."""
    settings = settings_of(Path(folder))
    contract = contract_of(Click)
    assert contract is not None
    events, lake = log.open(settings.log_url), catalog.open(settings)
    with Watch([contract], events, lake) as watch:
        ingest.Ingest(contract, events, lake).run(
            until_end=True, stop=threading.Event(), tell=lambda one: watch.committed(one.topic)
        )


def forward_once(folder: str, url: str, topic: str) -> None:
    """Ingests a topic of a broker in small commits, and forwards it to two more."""
    ingest.BATCH, ingest.TRICKLE = 100, 0
    declared = contract_of(Click)
    assert declared is not None
    contract = replace(
        declared, topic=topic, within=None, partitions=2, forward=(f"{topic}.valid", f"{topic}.invalid")
    )
    events = log.open(url)
    sink = ForwardSink(contract, events)
    lake = catalog.open(settings_of(Path(folder)))
    ingest.Ingest(contract, events, lake, [sink]).run(until_end=True, stop=threading.Event())


def forked(order: dict[str, Any]) -> int:
    """The wait status of a child that ingests, killed as the order says."""
    begun, begin = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if order["fault"]:
                os.environ[faults.VARIABLE] = order["fault"]
            if "forward" in order:
                forward_once(order["folder"], *order["forward"])
            else:
                ingest_once(Path(order["folder"]), begin)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(begin)
    committed = os.read(begun, 1)  # or nothing, when it ended before that
    os.close(begun)
    if committed and order["delay"] is not None:
        time.sleep(order["delay"])
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def main() -> None:
    for line in sys.stdin:
        sys.stdout.write(f"{forked(json.loads(line))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
