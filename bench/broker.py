"""Ingest from a real broker into Iceberg, compared with PyFlink judging the same events, in one run.

    python bench/broker.py [EVENTS] [--json]

Both read the same events from the same broker; a tenth of the events is broken. The end-to-end times are those
of whole processes, from start to exit: `headrace ingest --until-end` with all features, and the PyFlink job
(bench/peers/flink_job.py, in a separate environment). The steady rates exclude the start of both: ours is the
rate of `Ingest.run`, PyFlink's is computed from the append times of the first and the last record it wrote.

PyFlink runs once embedded in the JVM, which is its faster mode, and once, with a fifth of the events, in its
default mode, with Python in separate processes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from services.flink import connector, python
from services.kafka import broker

from headrace import log
from headrace.config.settings import make_settings
from headrace.events.ingest.ingest import Ingest, IngestHooks
from headrace.lake import open as open_lake
from workloads.behaviour import CONTRACT, SHOP, count_good, make_events

PARTITIONS = 2
BROKEN = 0.1
JOB = Path(__file__).parent / "peers" / "flink_job.py"


def fill_topic(url: str, count: int, broken: float) -> None:
    """Creates the topic and appends so many events."""
    opened = log.open(url)
    opened.create(CONTRACT.topic, PARTITIONS)
    values = list(make_events(count, broken))
    for begin in range(0, count, 20_000):
        part = values[begin : begin + 20_000]
        keys = [b"%d" % ((begin + n) // 7 % 50_021) for n in range(len(part))]
        opened.append(CONTRACT.topic, part, keys)
    opened.close()


def measure_rate(url: str, folder: Path, count: int, broken: float) -> float:
    """Ingests the topic in this process; returns events a second."""
    opened = log.open(url)
    ingest = Ingest(CONTRACT, opened, open_lake(make_settings(folder, "bench", state=folder / "state")))
    good: list[int] = []
    start = time.perf_counter()
    ingest.run(
        until_end=True, stop=threading.Event(), hooks=IngestHooks(lambda progress: good.append(progress.good))
    )
    seconds = time.perf_counter() - start
    opened.close()
    assert sum(good) == count_good(count, broken), sum(good)
    return count / seconds


def time_command(url: str, folder: Path, count: int) -> float:
    """Runs `headrace ingest --until-end` on the shop's project; returns the seconds of the process."""
    project = folder / "shop"
    shutil.copytree(SHOP, project)
    environment = {**os.environ, "HEADRACE_LOG": url, "HEADRACE_STATE": str(folder / "command")}
    command = [sys.executable, "-m", "headrace.cli.main", "ingest", CONTRACT.topic, "--until-end", "--json"]
    start = time.perf_counter()
    process = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["topics"][CONTRACT.topic]["good"] == count_good(count, BROKEN), (
        process.stdout
    )
    return seconds


def measure_flink(url: str, folder: Path, count: int, mode: str) -> tuple[float, float]:
    """Runs the job; returns the seconds of its process, and its events a second without start and end."""
    interpreter = python()
    opened = log.open(url)
    topics = ("valid", "invalid")
    for topic in topics:
        opened.create(topic, PARTITIONS)
    brokers = url.removeprefix("kafka://")
    arguments = [str(connector()), brokers, CONTRACT.topic, *topics, str(folder), mode]
    command = [str(interpreter), str(JOB), *arguments]
    environment = {**os.environ, "PATH": f"{interpreter.parent}:{os.environ['PATH']}"}
    start = time.perf_counter()
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    assert process.returncode == 0, process.stderr[-4000:]
    arrivals: list[Any] = []
    written = dict.fromkeys(topics, 0)
    for topic in topics:
        offsets = dict.fromkeys(range(PARTITIONS), 0)
        while len(batch := opened.read(topic, offsets, 100_000)):
            arrivals += [batch.arrived_at.min(), batch.arrived_at.max()]
            written[topic] += len(batch)
            offsets = batch.next
    opened.close()
    good = count_good(count, BROKEN)
    assert written == {"valid": good, "invalid": count - good}, written
    return seconds, count / ((max(arrivals) - min(arrivals)) / 1e6)


def compare(count: int, mode: str, name: str) -> None:
    """Measures ingest and PyFlink in this mode, and prints both."""
    with _broker(count, BROKEN) as (url, folder):
        rate, seconds = measure_rate(url, folder, count, BROKEN), time_command(url, folder, count)
        peer, peer_rate = measure_flink(url, folder, count, mode)
    what = f"{count:,} events from Kafka, {BROKEN:.0%} broken"
    _print(f"{what}, steady, against {name}", round(rate), "events/s", round(peer_rate), rate / peer_rate)
    _print(f"{what}, end to end, against {name}", round(seconds, 2), "s", round(peer, 2), peer / seconds)


def main(arguments: list[str]) -> None:
    """Runs the benchmark; prints a JSON object for each figure."""
    numbers = [argument for argument in arguments if argument.isdigit()]
    count = int(numbers[0]) if numbers else 1_000_000
    with _broker(count, 0.0) as (url, folder):
        _print(
            f"{count:,} events from Kafka, none broken",
            round(measure_rate(url, folder, count, 0.0)),
            "events/s",
        )
    compare(count, "thread", "PyFlink embedded")
    compare(count // 5, "process", "PyFlink")


@contextmanager
def _broker(count: int, broken: float) -> Iterator[tuple[str, Path]]:
    """Runs a broker with so many events on its topic; yields its address and a scratch folder."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
    try:
        with broker(folder) as running:
            fill_topic(running.url, count, broken)
            # Warm-up: a new broker needs seconds for its first consumer group and to compile its code.
            measure_rate(running.url, folder / "first", count, broken)
            yield running.url, folder
    finally:
        shutil.rmtree(folder)


def _print(work: str, ours: float, unit: str, peer: float | None = None, ratio: float = 0.0) -> None:
    comparison = {} if peer is None else {"peer": peer, "ratio": round(ratio, 1)}
    print(json.dumps({"work": work, "ours": ours, "unit": unit, **comparison}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
