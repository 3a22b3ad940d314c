"""Ingest, compared with a plain script that uses the same libraries, in one run.

    python bench/events.py [EVENTS] [--json]

The plain script reads a SQLite table of values, decodes them with msgspec, makes Arrow columns and appends them
with PyIceberg in batches of the same size. It skips events that do not decode, and has no verdicts, no position
and no deduplication. Ours is `Ingest.run` on the same events in the embedded log. Rates are by wall time and by
the CPU time of the process (`a core`), with 0 % and with 10 % of the events broken.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from pyiceberg.catalog import load_catalog

from headrace import log
from headrace.config.settings import make_settings
from headrace.events.ingest.ingest import BATCH, Ingest, IngestHooks
from headrace.lake import open as open_lake
from workloads.behaviour import CONTRACT, UserBehaviour, count_good, make_events


def make_plain_script(values: list[bytes], folder: Path) -> tuple[Callable[[], int], Callable[[], None]]:
    """Makes the plain script on a table of these values; returns it, and the function that closes it."""
    source = folder / "values.db"
    with closing(sqlite3.connect(source)) as db:
        db.execute("CREATE TABLE record (id INTEGER PRIMARY KEY, value BLOB NOT NULL)")
        db.executemany("INSERT INTO record (value) VALUES (?)", ((value,) for value in values))
        db.commit()
    uri = f"sqlite:///{folder / 'plain.db'}"
    catalog = load_catalog("plain", type="sql", uri=uri, warehouse=f"file://{folder}")
    catalog.create_namespace("plain")
    schema = pa.schema(
        [
            ("event_time", pa.timestamp("us", "UTC")),
            ("event_type", pa.string()),
            ("product_id", pa.int64()),
            ("category_id", pa.int64()),
            ("user_id", pa.int64()),
            ("price", pa.float64()),
            ("user_session", pa.string()),
            ("category_code", pa.string()),
            ("brand", pa.string()),
        ]
    )
    table = catalog.create_table("plain.events", schema)
    decoder = msgspec.json.Decoder(UserBehaviour)

    def work() -> int:
        rows = 0
        with closing(sqlite3.connect(source)) as db:
            cursor = db.execute("SELECT value FROM record ORDER BY id")
            while batch := cursor.fetchmany(BATCH):
                events = []
                for (value,) in batch:
                    try:
                        events.append(decoder.decode(value))
                    except msgspec.MsgspecError:
                        continue
                columns = [[getattr(event, name) for event in events] for name in schema.names]
                table.append(pa.table(columns, schema=schema))
                rows += len(events)
        return rows

    return work, catalog.close


def make_ingest(values: list[bytes], folder: Path) -> tuple[Callable[[], int], Callable[[], None]]:
    """Makes an ingest on a topic of these values; returns it, and the function that closes it."""
    settings = make_settings(folder, "bench", state=folder / "state")
    events = log.open(settings.log.url)
    events.create("user_behaviour")
    for begin in range(0, len(values), 10_000):
        events.append("user_behaviour", values[begin : begin + 10_000])
    ingest = Ingest(CONTRACT, events, open_lake(settings))

    def work() -> int:
        good = 0

        def add_good(progress: Any) -> None:
            nonlocal good
            good += progress.good

        ingest.run(until_end=True, stop=threading.Event(), hooks=IngestHooks(add_good))
        return good

    return work, events.close


def measure(make: Callable[..., Any], values: list[bytes], expected: int) -> tuple[float, float]:
    """Runs a work on the values; returns events a second by wall time and by CPU time."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
    try:
        work, close = make(values, folder)
        wall, cpu = time.perf_counter(), time.process_time()
        good = work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        close()
        assert good == expected, (good, expected)
        return len(values) / wall, len(values) / cpu
    finally:
        shutil.rmtree(folder)


def measure_log_read(values: list[bytes]) -> float:
    """Reads the values from the embedded log; returns records a second."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
    try:
        events = log.open(f"sqlite://{folder}")
        events.create("values")
        for begin in range(0, len(values), 10_000):
            events.append("values", values[begin : begin + 10_000])
        start, offsets = time.perf_counter(), {0: 0}
        while len(batch := events.read("values", offsets, BATCH)):
            offsets = batch.next
        seconds = time.perf_counter() - start
        events.close()
        return len(values) / seconds
    finally:
        shutil.rmtree(folder)


def main(arguments: list[str]) -> None:
    """Runs the benchmark; prints a line or a JSON object for each figure."""
    numbers = [argument for argument in arguments if argument.isdigit()]
    count = int(numbers[0]) if numbers else 1_000_000
    results: list[dict[str, Any]] = []
    for share in (0.0, 0.1):
        values = list(make_events(count, share))
        expected = count_good(count, share)
        peer = measure(make_plain_script, values, expected)
        own = measure(make_ingest, values, expected)
        for name, ours, theirs in (("by wall time", own[0], peer[0]), ("a core", own[1], peer[1])):
            results.append(
                {
                    "work": f"ingest, {share:.0%} broken, {name}",
                    "ours": round(ours),
                    "unit": "events/s",
                    "peer": round(theirs),
                    "ratio": round(ours / theirs, 2),
                }
            )
        if not share:
            results.append({"work": "log read", "ours": round(measure_log_read(values)), "unit": "records/s"})
    for result in results:
        if "--json" in arguments:
            print(json.dumps(result))
        else:
            extra = f"   plain script {result['peer']:>10,}   {result['ratio']:.2f}" if "peer" in result else ""
            print(f"{result['work']:34} {result['ours']:>10,} {result['unit']}{extra}")


if __name__ == "__main__":
    main(sys.argv[1:])
