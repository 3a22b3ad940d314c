"""The latency from sending an event to reading its row in the table, at a steady rate.

    python bench/latency.py [SECONDS] [--json]

`headrace ingest` runs on the shop's project in a separate process, on each log. This process appends 20,000
events a second, 500 at a time, and polls the catalog for the table's position. An event's latency runs from
just before its append to the end of the first poll that finds it committed. At the end every row is counted.

The memory of the ingest is measured each second, both resident memory and anonymous memory (which the kernel
cannot reclaim): the mean of the last quarter of the run is compared with the mean of the second quarter.
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
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from services.kafka import broker

from headrace import lake, log
from headrace.config.settings import load_settings
from headrace.events.ingest.position import read_position
from headrace.lake import LakeTable
from workloads.behaviour import CONTRACT, SHOP, make_events

RATE, CHUNK = 20_000, 500
POLL_SECONDS = 0.02  # seconds between two polls of the table
DEADLINE = 60.0


class TableWatch:
    """Polls the position of the table, and the memory of the ingest, until it is stopped."""

    def __init__(self, table: LakeTable, pid: int) -> None:
        self.observations: list[tuple[float, int]] = [(time.perf_counter(), self._end(table))]
        self.memory: list[tuple[int, int]] = []
        self._table, self._pid = table, pid
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def until(self, end: int) -> None:
        """Waits until the table has reached this offset, and stops."""
        deadline = time.monotonic() + DEADLINE
        while self.observations[-1][1] < end:
            assert time.monotonic() < deadline, f"the table reached {self.observations[-1][1]} of {end}"
            time.sleep(POLL_SECONDS)
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            end = self._end(self._table)
            now = time.perf_counter()
            if end > self.observations[-1][1]:
                self.observations.append((now, end))
            if now - self.observations[0][0] > len(self.memory):
                self.memory.append(self._memory())

    def _memory(self) -> tuple[int, int]:
        lines = Path(f"/proc/{self._pid}/status").read_text().splitlines()
        fields = {name: value for name, _, value in (line.partition(":") for line in lines)}
        resident, anonymous = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon"))
        return resident, anonymous

    @staticmethod
    def _end(table: LakeTable) -> int:
        position = read_position(table)
        return position.next_offset(0) if position is not None else 0


@contextmanager
def run_ingest(project: Path, environment: dict[str, str]) -> Iterator[int]:
    """Runs `headrace ingest` on the project until the block ends; yields its process id."""
    command = [sys.executable, "-m", "headrace.cli.main", "ingest", CONTRACT.topic]
    with subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            yield process.pid
        finally:
            process.terminate()
            process.wait(DEADLINE)


def measure(project: Path, seconds: int, url: str) -> tuple[np.ndarray, np.ndarray]:
    """Runs the ingest; returns each event's latency in seconds, and for each second its (resident, anonymous)
    memory in bytes."""
    environment = {**os.environ, "HEADRACE_LOG": url, "HEADRACE_STATE": str(project / url.partition(":")[0])}
    os.environ.update(environment)
    settings = load_settings(project)
    opened = log.open(settings.log.url)
    opened.create(CONTRACT.topic)
    events = make_events(RATE * (seconds + 1), begin=datetime.now(UTC), rate=RATE)
    sent: list[tuple[int, float]] = []  # (first offset of the append, when it was sent)
    with run_ingest(project, environment) as pid:
        first = list(islice(events, CHUNK))
        opened.append(CONTRACT.topic, first)
        opened_lake = lake.open(settings)
        deadline = time.monotonic() + DEADLINE
        while (
            not opened_lake.table_exists(CONTRACT.table)
            or opened_lake.table(CONTRACT.table).current_snapshot() is None
        ):
            assert time.monotonic() < deadline, "the ingest does not begin"
            time.sleep(POLL_SECONDS)
        table = opened_lake.table(CONTRACT.table)
        watch = TableWatch(table, pid)
        start = time.perf_counter()
        for n in range(seconds * RATE // CHUNK):
            values = list(islice(events, CHUNK))
            time.sleep(max(0.0, start + n * CHUNK / RATE - time.perf_counter()))
            at = time.perf_counter()
            sent.append((opened.append(CONTRACT.topic, values)[0][1], at))
        end = opened.end(CONTRACT.topic)[0]
        watch.until(end)
    opened.close()
    rows = table.scan().select("_log_offset").collect()["_log_offset"]
    assert rows.len() == rows.n_unique() == CHUNK + seconds * RATE, rows.len()
    offsets = np.array([offset for offset, _ in sent])
    times, ends = (np.array(values) for values in zip(*watch.observations, strict=True))
    latencies = times[np.searchsorted(ends, offsets + CHUNK)] - np.array([at for _, at in sent])
    return np.repeat(latencies, CHUNK), np.array(watch.memory)


def main(arguments: list[str]) -> None:
    """Runs the benchmark; prints a JSON object for each figure."""
    numbers = [argument for argument in arguments if argument.isdigit()]
    seconds = int(numbers[0]) if numbers else 60
    for name in ("sqlite", "kafka"):
        folder = Path(tempfile.mkdtemp(prefix="headrace-bench-"))
        try:
            project = folder / "shop"
            shutil.copytree(SHOP, project)
            with ExitStack() as stack:
                url = "sqlite" if name == "sqlite" else stack.enter_context(broker(folder)).url
                latencies, memory = measure(project, seconds, url)
        finally:
            shutil.rmtree(folder)
        work = f"sent to readable, {RATE:,} events/s for {seconds} s, {name}"
        for what, value, unit in _figures(latencies, memory):
            print(json.dumps({"work": f"{work}, {what}", "ours": value, "unit": unit}), flush=True)


def _figures(latencies: np.ndarray, memory: np.ndarray) -> Iterator[tuple[str, float, str]]:
    for what, share in (("p50", 50), ("p99", 99), ("the slowest", 100)):
        yield what, round(float(np.percentile(latencies, share)), 3), "s"
    quarter = max(1, len(memory) // 4)
    second, last = memory[quarter : 2 * quarter].mean(axis=0), memory[-quarter:].mean(axis=0)
    for at, what in enumerate(("memory", "anonymous memory")):
        yield f"{what}, last quarter", round(float(last[at]) / 2**20), "MiB"
        yield f"{what}, last quarter against the second", round(float(last[at] / second[at]), 3), "times"


if __name__ == "__main__":
    main(sys.argv[1:])
