"""The speed of the online store in SQLite: reads of one row and of a hundred, fills and batches."""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from headrace.features.aggregates import parse_function, result_dtype
from headrace.features.online import OnlineStore
from headrace.features.online.lookup import Lookup
from headrace.features.online.sqlite import open_sqlite
from headrace.features.plan import (
    Aggregation,
    AsOfView,
    EntityKey,
    FeaturePlan,
    FeatureRef,
    PlanField,
    WindowedView,
)
from headrace.kernel.position import LogPosition, SnapshotPosition
from headrace.kernel.time import now_micros

MINUTE = 60_000_000
HOUR, DAY = 60 * MINUTE, 24 * 60 * MINUTE
ENTITIES = 20_000
EVENTS = 200_000
USER = EntityKey("user", "user", "int64")
INSTANT = pl.Datetime("us", "UTC")


def print_figure(work: str, ours: float, unit: str) -> None:
    print(json.dumps({"work": f"online SQLite: {work}", "ours": ours, "unit": unit}), flush=True)


def median_micros(work: Callable[[int], object], times: int) -> float:
    """The median duration of a call in microseconds. Each call gets its number."""
    durations = []
    for number in range(times):
        begin = time.perf_counter_ns()
        work(number)
        durations.append(time.perf_counter_ns() - begin)
    return sorted(durations)[times // 2] / 1000


def plan_of(*views: AsOfView | WindowedView) -> FeaturePlan:
    features = tuple(
        FeatureRef(view.name, field.name, field.dtype) for view in views for field in view.features
    )
    return FeaturePlan("m", (USER,), views, features)


def make_view() -> WindowedView:
    """A windowed view of six features over an hour and a day."""
    aggregations = []
    for window, hop in ((HOUR, 5 * MINUTE), (DAY, HOUR)):
        for column, name in (("item", "count"), ("bought", "count"), ("price", "sum")):
            function = parse_function(name)
            dtype = result_dtype(function, "float64" if column == "price" else "int64")
            aggregations.append(Aggregation(f"{name}_{column}_{window}", column, function, window, hop, dtype))
    columns = (PlanField("item", "int64"), PlanField("bought", "int64"), PlanField("price", "float64"))
    return WindowedView("w", ("user",), "events", "events", None, "time", columns, tuple(aggregations))


def events(count: int, now: int, span: int) -> pl.DataFrame:
    draw = np.random.default_rng(count)
    return pl.DataFrame(
        {
            "user": draw.integers(0, ENTITIES, count),
            "time": pl.Series(now - draw.integers(1, span, count)).cast(INSTANT),
            "item": draw.integers(0, 1000, count),
            "bought": pl.Series(draw.integers(0, 1000, count)).set(pl.Series(draw.random(count) < 0.9), None),
            "price": draw.lognormal(3, 1, count).round(2),
        }
    )


def measure_reads(store: OnlineStore, plan: FeaturePlan, name: str) -> None:
    draw = random.Random(7)
    users = [draw.randrange(ENTITIES) for _ in range(200_000)]
    print_figure(
        f"{name}, 6 features, 1 row",
        median_micros(lambda n: store.lookup(plan, [{"user": users[n]}], now_micros()), 5000),
        "µs",
    )
    many = [[{"user": user} for user in users[n * 100 : n * 100 + 100]] for n in range(500)]
    print_figure(
        f"{name}, 6 features, 100 rows",
        median_micros(lambda n: store.lookup(plan, many[n], now_micros()), 500),
        "µs",
    )
    lookup = Lookup(plan, store)
    print_figure(
        f"{name}, one request to its matrix",
        median_micros(lambda n: lookup.features([{"user": users[n]}], now_micros()), 5000),
        "µs",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object a line (always the case)")
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = open_sqlite(Path(folder) / "online.db")
        as_of = AsOfView(
            "a", ("user",), "facts", "time", tuple(PlanField(f"f{i}", "float64") for i in range(6)), 7 * DAY
        )
        facts = pl.DataFrame(
            {
                "user": np.arange(ENTITIES),
                **{f"f{i}": np.random.default_rng(i).random(ENTITIES) for i in range(6)},
            }
        ).with_columns(time=pl.lit(now_micros() - HOUR).cast(INSTANT))
        store.prepare(plan_of(as_of))
        begin = time.perf_counter()
        store.load(as_of, facts.to_arrow(), SnapshotPosition("facts", 1))
        print_figure("rows loaded", ENTITIES / (time.perf_counter() - begin), "rows/s")
        measure_reads(store, plan_of(as_of), "as-of view")

        view = make_view()
        store.prepare(plan_of(view))
        rows = events(EVENTS, now_micros(), 2 * DAY).to_arrow()
        begin = time.perf_counter()
        store.fill(view, rows, LogPosition("events", "one", {0: EVENTS}))
        print_figure("events filled", EVENTS / (time.perf_counter() - begin), "events/s")
        measure_reads(store, plan_of(view), "windowed view")
        for size in (100, 10_000, 100_000):
            at = store.position(view)
            assert isinstance(at, LogPosition)
            rows = events(size, now_micros(), MINUTE).to_arrow()
            begin = time.perf_counter()
            store.apply([view], rows, at.with_offsets({0: at.offsets[0] + size}), after=at)
            print_figure(f"events applied, {size:,} a batch", size / (time.perf_counter() - begin), "events/s")
        store.close()


if __name__ == "__main__":
    main()
