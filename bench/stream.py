"""The latency from sending an event to reading it in the online store, at a steady rate, on each store.

    python bench/stream.py [SECONDS] [--json]

`headrace ingest` runs in a separate process and follows a windowed view of 20 aggregates. This process appends
5,000 events a second to the log, 50 at a time, and polls the view's position in the store. An event's latency
runs from just before its append to the end of the first read that finds the position after it. At the end the
count of every entity is compared with the events that were sent: each must be there once. A server that is not
installed is left out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))
from services.postgres import postgres
from services.redis import redis
from services.server import Missing

from headrace import log as logs
from headrace.config.settings import load_settings
from headrace.features import online
from headrace.features.aggregates import parse_function, result_dtype
from headrace.features.plan import Aggregation, EntityKey, FeaturePlan, FeatureRef, PlanField, WindowedView
from headrace.kernel.position import LogPosition
from headrace.kernel.time import now_micros

RATE, CHUNK, USERS = 5_000, 50, 5_000
MINUTE = 60_000_000
HOUR, DAY = 60 * MINUTE, 24 * 60 * MINUTE
WARM_SECONDS = 5
POLL_SECONDS = 0.002
DEADLINE = 120.0
CODE = """
from datetime import datetime
from headrace import Struct, event

@event(topic="orders", time="at")
class Order(Struct):
    at: datetime
    user_id: int
    price: float
"""


def make_view() -> WindowedView:
    """A view of 20 aggregates; the first counts all orders of a day."""
    functions = ("count", "sum", "mean", "max", "last")
    windows = ((DAY, HOUR), (HOUR, 5 * MINUTE), (6 * HOUR, HOUR), (7 * DAY, DAY))
    aggregations = tuple(
        Aggregation(
            f"{name}_{window}",
            "price",
            parse_function(name),
            window,
            hop,
            result_dtype(parse_function(name), "float64"),
        )
        for window, hop in windows
        for name in functions
    )
    columns = (PlanField("price", "float64"),)
    return WindowedView("recent", ("user_id",), "orders", "orders", None, "at", columns, aggregations)


VIEW = make_view()
PLAN = FeaturePlan(
    "m",
    (EntityKey("user", "user_id", "int64"),),
    (VIEW,),
    tuple(FeatureRef(VIEW.name, field.name, field.dtype) for field in VIEW.features),
)


def make_project(root: Path) -> Path:
    """Writes a project with one event."""
    (root / "stream").mkdir(parents=True)
    (root / "stream" / "__init__.py").write_text("")
    (root / "stream" / "orders.py").write_text(CODE)
    (root / "headrace.toml").write_text('[project]\nname = "stream"\n')
    return root


@contextmanager
def run_ingest(project: Path, environment: dict[str, str]) -> Iterator[None]:
    """Runs `headrace ingest` on the project until the block ends."""
    command = [sys.executable, "-m", "headrace.cli.main", "ingest", "orders"]
    with subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()
            process.wait(DEADLINE)


class PositionWatch:
    """Reads the view's position in the store again and again, until it reaches an offset."""

    def __init__(self, store: online.OnlineStore) -> None:
        self.observations: list[tuple[float, int]] = [(time.perf_counter(), self._end(store))]
        self._store = store
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def until(self, end: int) -> None:
        """Waits until the position is at this offset or after it."""
        deadline = time.monotonic() + DEADLINE
        while self.observations[-1][1] < end:
            assert time.monotonic() < deadline, f"the view reached {self.observations[-1][1]} of {end}"
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Ends the reads."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            end = self._end(self._store)
            if end > self.observations[-1][1]:
                self.observations.append((time.perf_counter(), end))

    @staticmethod
    def _end(store: online.OnlineStore) -> int:
        position = store.position(VIEW)
        return position.next_offset(0) if isinstance(position, LogPosition) else 0


def make_values(draw: np.random.Generator) -> tuple[list[bytes], list[int]]:
    """The next events, and their users."""
    users, prices = draw.integers(0, USERS, CHUNK).tolist(), draw.lognormal(3, 1, CHUNK).round(2).tolist()
    at = datetime.now(UTC).isoformat()
    events = zip(users, prices, strict=True)
    return [json.dumps({"at": at, "user_id": user, "price": price}).encode() for user, price in events], users


def measure(project: Path, seconds: int, address: str) -> np.ndarray:
    """Sends events for some seconds; returns the latency of each in seconds, without those of the first."""
    environment = {**os.environ, "HEADRACE_ONLINE": address}
    settings = load_settings(project).with_values(online=address)
    settings.make_state()
    draw, sent, counts = np.random.default_rng(1), list[tuple[int, float]](), Counter[int]()
    with closing(logs.open(settings.log.url)) as log, closing(online.open(settings)) as store:
        log.create("orders")
        store.prepare(PLAN)
        empty = {"user_id": pa.int64(), "at": pa.timestamp("us", "UTC"), "price": pa.float64()}
        rows = pa.table({name: pa.array([], type_) for name, type_ in empty.items()})
        store.fill(VIEW, rows, LogPosition("orders", log.identity("orders"), {0: 0}))
        with run_ingest(project, environment):
            watch = PositionWatch(store)
            values, users = make_values(draw)
            counts.update(users)
            log.append("orders", values)
            watch.until(CHUNK)
            start = time.perf_counter()
            for number in range((seconds + WARM_SECONDS) * RATE // CHUNK):
                values, users = make_values(draw)
                counts.update(users)
                time.sleep(max(0.0, start + number * CHUNK / RATE - time.perf_counter()))
                at = time.perf_counter()
                sent.append((log.append("orders", values)[0][1] + CHUNK, at))
            lasted = time.perf_counter() - start
            watch.until(sent[-1][0])
            watch.stop()
        keys = [{"user_id": user} for user in range(USERS)]
        found = [row[0] for row in store.lookup(PLAN, keys, now_micros()).rows]
    assert found == [counts[user] for user in range(USERS)], "an event is missing, or counted twice"
    assert lasted < (seconds + WARM_SECONDS) * 1.05, f"the events were sent too slowly: {lasted:.1f} s"
    times, ends = (np.array(values) for values in zip(*watch.observations, strict=True))
    latencies = times[np.searchsorted(ends, [end for end, _ in sent])] - np.array([at for _, at in sent])
    return latencies[WARM_SECONDS * RATE // CHUNK :]


def print_figures(store: str, seconds: int, latencies: np.ndarray) -> None:
    for what, share in (("p50", 50), ("p99", 99), ("the slowest", 100)):
        work = f"sent to readable in {store}, {RATE:,} events/s for {seconds} s, {what}"
        figure = {"work": work, "ours": round(float(np.percentile(latencies, share)) * 1_000, 1), "unit": "ms"}
        print(json.dumps(figure), flush=True)


def main(arguments: list[str]) -> None:
    """Runs the benchmark; prints a JSON object for each figure."""
    numbers = [argument for argument in arguments if argument.isdigit()]
    seconds = int(numbers[0]) if numbers else 20
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        print_figures("SQLite", seconds, measure(make_project(root / "p"), seconds, "sqlite"))
    with (
        tempfile.TemporaryDirectory() as folder,
        suppress(Missing),
        postgres(Path(folder), fsync=True) as server,
    ):
        print_figures("PostgreSQL", seconds, measure(make_project(Path(folder) / "p"), seconds, server.url))
    with tempfile.TemporaryDirectory() as folder, suppress(Missing), redis(Path(folder)) as server:
        print_figures("Redis", seconds, measure(make_project(Path(folder) / "p"), seconds, server.url))


if __name__ == "__main__":
    main(sys.argv[1:])
