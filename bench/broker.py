"""From a real broker into Iceberg, beside PyFlink giving the same verdicts on the same topic, in one run.

    python bench/broker.py [EVENTS] [--json]

Both begin with the same events on the same broker (a tenth of them broken) and are timed as a user
would meet them: `headrace ingest --until-end` as a process, from its start to its exit, everything on;
and the PyFlink job (bench/peers/flink_job.py, in an environment of its own), from its start to its exit.
The steady rates leave both starts out: ours is of `Ingest.run` by itself, PyFlink's by the append
times of the first and the last record that it wrote.

PyFlink runs embedded in the JVM, which is its faster way; and, with a fifth of the events, as it does
unless told otherwise, with Python in processes of its own.
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
from workloads.behaviour import CONTRACT, SHOP, good_of, made

PARTITIONS = 2
BROKEN = 0.1
JOB = Path(__file__).parent / "peers" / "flink_job.py"


def filled(url: str, count: int, broken: float) -> None:
    """The topic with so many events."""
    opened = log.open(url)
    opened.create(CONTRACT.topic, PARTITIONS)
    values = list(made(count, broken))
    for begin in range(0, count, 20_000):
        part = values[begin : begin + 20_000]
        keys = [b"%d" % ((begin + n) // 7 % 50_021) for n in range(len(part))]
        opened.append(CONTRACT.topic, part, keys)
    opened.close()


def steady(url: str, folder: Path, count: int, broken: float) -> float:
    """Events a second of an ingest by itself."""
    opened = log.open(url)
    ingest = Ingest(CONTRACT, opened, open_lake(make_settings(folder, "bench", state=folder / "state")))
    good: list[int] = []
    began = time.perf_counter()
    ingest.run(
        until_end=True, stop=threading.Event(), hooks=IngestHooks(lambda progress: good.append(progress.good))
    )
    took = time.perf_counter() - began
    opened.close()
    assert sum(good) == good_of(count, broken), sum(good)
    return count / took


def whole(url: str, folder: Path, count: int) -> float:
    """Seconds of `headrace ingest --until-end` on the shop's project, as a process."""
    project = folder / "shop"
    shutil.copytree(SHOP, project)
    environment = {**os.environ, "HEADRACE_LOG": url, "HEADRACE_STATE": str(folder / "whole")}
    command = [sys.executable, "-m", "headrace.cli.main", "ingest", CONTRACT.topic, "--until-end", "--json"]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    took = time.perf_counter() - began
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["topics"][CONTRACT.topic]["good"] == good_of(count, BROKEN), done.stdout
    return took


def flink(url: str, folder: Path, count: int, mode: str) -> tuple[float, float]:
    """Seconds of the job as a process, and events a second between its first and its last record."""
    interpreter = python()
    opened = log.open(url)
    topics = ("valid", "invalid")
    for topic in topics:
        opened.create(topic, PARTITIONS)
    brokers = url.removeprefix("kafka://")
    command = [
        str(interpreter), str(JOB), str(connector()), brokers, CONTRACT.topic, *topics, str(folder), mode
    ]  # fmt: skip
    environment = {**os.environ, "PATH": f"{interpreter.parent}:{os.environ['PATH']}"}
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    took = time.perf_counter() - began
    assert done.returncode == 0, done.stderr[-4000:]
    arrivals: list[Any] = []
    written = dict.fromkeys(topics, 0)
    for topic in topics:
        offsets = dict.fromkeys(range(PARTITIONS), 0)
        while len(batch := opened.read(topic, offsets, 100_000)):
            arrivals += [batch.arrived_at.min(), batch.arrived_at.max()]
            written[topic] += len(batch)
            offsets = batch.next
    opened.close()
    good = good_of(count, BROKEN)
    assert written == {"valid": good, "invalid": count - good}, written
    return took, count / ((max(arrivals) - min(arrivals)) / 1e6)


def beside(count: int, mode: str, name: str) -> None:
    """Prints how long each takes, PyFlink in this mode."""
    with _broker(count, BROKEN) as (url, folder):
        rate, own = steady(url, folder, count, BROKEN), whole(url, folder, count)
        peer, peer_rate = flink(url, folder, count, mode)
    what = f"{count:,} events from Kafka, {BROKEN:.0%} broken"
    _print(f"{what}, steady, beside {name}", round(rate), "events/s", round(peer_rate), rate / peer_rate)
    _print(f"{what}, end to end, beside {name}", round(own, 2), "s", round(peer, 2), peer / own)


def main(arguments: list[str]) -> None:
    """Runs it and prints a JSON object a line."""
    numbers = [one for one in arguments if one.isdigit()]
    count = int(numbers[0]) if numbers else 1_000_000
    with _broker(count, 0.0) as (url, folder):
        _print(f"{count:,} events from Kafka, none broken", round(steady(url, folder, count, 0.0)), "events/s")
    beside(count, "thread", "PyFlink embedded")
    beside(count // 5, "process", "PyFlink")


@contextmanager
def _broker(count: int, broken: float) -> Iterator[tuple[str, Path]]:
    """A broker with so many events on its topic, which has been read once, and a folder."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
    try:
        with broker(folder) as running:
            filled(running.url, count, broken)
            # A new broker is for seconds busy with its first group, and compiles its code.
            steady(running.url, folder / "first", count, broken)
            yield running.url, folder
    finally:
        shutil.rmtree(folder)


def _print(work: str, ours: float, unit: str, peer: float | None = None, ratio: float = 0.0) -> None:
    held = {} if peer is None else {"peer": peer, "ratio": round(ratio, 1)}
    print(json.dumps({"work": work, "ours": ours, "unit": unit, **held}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
