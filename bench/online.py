"""The speed of the online stores: reads of one row, a hundred and a thousand, loads, fills and batches.

Before reads are timed, the answers must be those that the table's rows, or the offline kernel, give. Beside the
reads of two small views from SQLite stands bare sqlite3, in turn: a table with the six values in columns.
Windowed views are read twice: for entities that this process has not read yet, and again for the same ones. A
server that is not installed is left out.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import timedelta
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parents[1]))
from services.postgres import postgres
from services.redis import redis
from services.server import Missing

from headrace.features.aggregates import parse_function, result_dtype
from headrace.features.offline.point_in_time import as_of_rows
from headrace.features.offline.windows import aggregate
from headrace.features.online import OnlineStore
from headrace.features.online.lookup import Lookup
from headrace.features.online.postgres import open_postgres
from headrace.features.online.redis import open_redis
from headrace.features.online.sqlite import open_sqlite
from headrace.features.plan import (
    Aggregation,
    AsOfView,
    EntityKey,
    FeaturePlan,
    FeatureRef,
    PlanField,
    WindowedView,
    hop_of,
)
from headrace.kernel.position import LogPosition, SnapshotPosition
from headrace.kernel.time import now_micros

MINUTE = 60_000_000
HOUR, DAY = 60 * MINUTE, 24 * 60 * MINUTE
ENTITIES = 20_000
LOADED = 500_000
EVENTS = 200_000
USER = EntityKey("user", "user", "int64")
INSTANT = pl.Datetime("us", "UTC")


def print_figure(store: str, work: str, ours: float, unit: str) -> None:
    print(json.dumps({"work": f"online {store}: {work}", "ours": ours, "unit": unit}), flush=True)


def median_micros(work: Callable[[int], object], times: int) -> float:
    """The median duration of a call in microseconds. Each call gets its number."""
    durations = []
    for number in range(times):
        begin = time.perf_counter_ns()
        work(number)
        durations.append(time.perf_counter_ns() - begin)
    return sorted(durations)[times // 2] / 1000


class Draw:
    """Draws users, each once before any is drawn again."""

    def __init__(self, entities: int) -> None:
        self._users = cycle(random.Random(7).sample(range(entities), entities))

    def keys(self, count: int) -> list[dict[str, int]]:
        return [{"user": user} for user in islice(self._users, count)]


def has_windows(plan: FeaturePlan) -> bool:
    return any(isinstance(view, WindowedView) for view in plan.views)


def rows_text(count: int) -> str:
    return f"{count} row{'s' if count > 1 else ''}"


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


def measure_reads(kind: str, store: OnlineStore, plan: FeaturePlan, name: str) -> None:
    draw = Draw(ENTITIES)
    for count, times in ((1, 2000), (100, 60), (1000, 10)):
        keys = [draw.keys(count) for _ in range(times)]
        for again in ("", ", again") if has_windows(plan) else ("",):
            micros = median_micros(lambda n, keys=keys: store.lookup(plan, keys[n], now_micros()), times)
            print_figure(kind, f"{name}, 6 features, {rows_text(count)}{again}", micros, "µs")
    lookup = Lookup(plan, store)
    keys = [draw.keys(1) for _ in range(2000)]
    micros = median_micros(lambda n: lookup.features(keys[n], now_micros()), len(keys))
    print_figure(kind, f"{name}, one request to its matrix", micros, "µs")


def measure_goals(kind: str, store: OnlineStore) -> None:
    """What models ask for most: two small views, twenty aggregates, very many features; a load of a history."""
    entities = 11_600
    draw = np.random.default_rng(3)
    names = [[f"a{n}" for n in range(3)], [f"b{n}" for n in range(3)]]
    views = [
        AsOfView(
            f"pair{index}",
            ("user",),
            f"pair{index}",
            "time",
            tuple(PlanField(name, "float64") for name in fields),
            7 * DAY,
        )
        for index, fields in enumerate(names)
    ]
    plan = plan_of(*views)
    store.prepare(plan)
    rows = pl.DataFrame(
        {"user": draw.integers(0, entities, 602_316), "time": now_micros() - draw.integers(1, DAY, 602_316)}
    ).with_columns(pl.col("time").cast(INSTANT))
    tables: list[pl.DataFrame] = []
    for view, fields in zip(views, names, strict=True):
        table = rows.with_columns(pl.Series(name, draw.random(len(rows))) for name in fields)
        tables.append(table)
        begin, cpu = time.perf_counter(), time.process_time()
        arrow = as_of_rows(view, table.lazy()).collect().to_arrow()
        store.load(view, arrow, SnapshotPosition(view.table, 1))
        print_figure(kind, "602,316 rows loaded into 11,600 keys", time.perf_counter() - begin, "s")
        print_figure(kind, "602,316 rows loaded into 11,600 keys", time.process_time() - cpu, "s of CPU")
    newest = make_newest(tables, names)
    check_answers(store, plan, newest.rows(), entities)
    peer = BareSqlite(newest) if kind == "SQLite" else None
    measure_lookups(kind, store, plan, "2 views, 6 features", entities, peer=peer)
    aggregations = []
    for hours in (1, 6, 24, 72):
        hop = hop_of(timedelta(hours=hours)) // timedelta(microseconds=1)
        for column, name in (
            ("item", "count"),
            ("bought", "count"),
            ("price", "sum"),
            ("price", "mean"),
            ("price", "max"),
        ):
            function = parse_function(name)
            dtype = result_dtype(function, "float64" if column == "price" else "int64")
            aggregations.append(
                Aggregation(f"{name}_{column}_{hours}", column, function, hours * HOUR, hop, dtype)
            )
    columns = (PlanField("item", "int64"), PlanField("bought", "int64"), PlanField("price", "float64"))
    view = WindowedView("w20", ("user",), "events", "events", None, "time", columns, tuple(aggregations))
    store.prepare(plan_of(view))
    filled = events(EVENTS, now_micros(), 2 * DAY)
    store.fill(view, filled.to_arrow(), LogPosition("events", "one", {0: EVENTS}))
    check_windows(store, plan_of(view), view, filled)
    measure_lookups(kind, store, plan_of(view), "windowed view, 20 aggregates", ENTITIES)
    wide = [
        AsOfView(
            f"wide{index}",
            ("user",),
            f"wide{index}",
            "time",
            tuple(PlanField(f"f{n}", "float64") for n in range(30)),
            7 * DAY,
        )
        for index in range(20)
    ]
    plan = plan_of(*wide)
    store.prepare(plan)
    keys = pl.DataFrame({"user": np.arange(1000)}).with_columns(time=pl.lit(now_micros() - HOUR).cast(INSTANT))
    for view in wide:
        table = keys.with_columns(pl.Series(f"f{n}", draw.random(1000)) for n in range(30))
        store.load(view, table.to_arrow(), SnapshotPosition(view.table, 1))
    measure_lookups(kind, store, plan, "600 features in 20 views", 1000, counts=(1,))


def make_newest(tables: list[pl.DataFrame], names: list[list[str]]) -> pl.DataFrame:
    """The newest row's values of each user, by the definition: of equal times the greatest values."""
    parts = [
        table.sort("user", "time", *fields).unique("user", keep="last").select("user", *fields)
        for table, fields in zip(tables, names, strict=True)
    ]
    return parts[0].join(parts[1], on="user").sort("user")


def check_answers(
    store: OnlineStore, plan: FeaturePlan, expected: list[tuple[object, ...]], entities: int
) -> None:
    """Compares the answers for every user with the expected (user, values...), and for one user that is not
    known."""
    users = [row[0] for row in expected]
    assert len(users) > entities // 2
    result = store.lookup(plan, [{"user": user} for user in [*users, -1]], now_micros())
    assert result.rows[:-1] == [list(row[1:]) for row in expected]
    assert set(result.rows[-1]) == {None}


def check_windows(store: OnlineStore, plan: FeaturePlan, view: WindowedView, rows: pl.DataFrame) -> None:
    """Compares the answers for some users with the offline kernel's."""
    at = now_micros()
    users = pl.DataFrame({"user": range(-1, 300)})
    moments = users.with_columns(at=pl.lit(at).cast(INSTANT))
    result = store.lookup(plan, users.rows(named=True), at)
    assert result.rows == [list(row) for row in aggregate(view, moments, rows, at="at").rows()]


class BareSqlite:
    """A table of users with their values in columns, read by the standard library alone."""

    def __init__(self, newest: pl.DataFrame) -> None:
        self._db = sqlite3.connect("")  # a file, which SQLite removes
        columns = ", ".join(f"{name} real" for name in newest.columns[1:])
        self._db.execute(f"create table facts (user integer primary key, {columns})")
        marks = ", ".join("?" * newest.width)
        self._db.executemany(f"insert into facts values ({marks})", newest.iter_rows())
        self._db.commit()

    def read(self, keys: list[dict[str, int]]) -> list[tuple[float | None, ...]]:
        """The values of each user."""
        marks = ", ".join("?" * len(keys))
        users = [key["user"] for key in keys]
        rows = {row[0]: row for row in self._db.execute(f"select * from facts where user in ({marks})", users)}
        return [rows[user][1:] if user in rows else (None,) * 6 for user in users]


def measure_lookups(
    kind: str,
    store: OnlineStore,
    plan: FeaturePlan,
    name: str,
    entities: int,
    counts: tuple[int, ...] = (1, 100),
    peer: BareSqlite | None = None,
) -> None:
    """Prints the median time of a lookup, and this process's mean CPU time for it; with a peer, which answers
    in turn, also the peer's."""
    draw = Draw(entities)
    for count in counts:
        times = 3000 if count == 1 else 150
        keys = [draw.keys(count) for _ in range(times)]
        work = f"{name}, {rows_text(count)}"
        for again in ("", ", again") if has_windows(plan) else ("",):
            cpu = time.process_time_ns()
            micros = median_micros(lambda n, keys=keys: store.lookup(plan, keys[n], now_micros()), times)
            cpu = time.process_time_ns() - cpu
            print_figure(kind, work + again, micros, "µs")
            print_figure(kind, work + again, cpu / times / 1000, "µs of CPU")
        if peer is not None:
            answers = store.lookup(plan, keys[0], now_micros()).rows
            assert answers == [list(row) for row in peer.read(keys[0])]
            durations = [
                (
                    median_micros(lambda n, keys=keys: store.lookup(plan, keys[n], now_micros()), times // 10),
                    median_micros(lambda n, keys=keys: peer.read(keys[n]), times // 10),
                )
                for _ in range(10)
            ]
            ours, bare = (sorted(column)[5] for column in zip(*durations, strict=True))
            figure = {"work": f"online {kind}: {work}, beside bare sqlite3", "ours": ours, "unit": "µs"}
            print(json.dumps(figure | {"peer": bare, "ratio": ours / bare}), flush=True)


def make_facts(entities: int) -> tuple[AsOfView, pl.DataFrame]:
    fields = tuple(PlanField(f"f{index}", "float64") for index in range(6))
    columns = {field.name: np.random.default_rng(at).random(entities) for at, field in enumerate(fields)}
    rows = pl.DataFrame({"user": np.arange(entities), **columns})
    time_column = pl.lit(now_micros() - HOUR).cast(INSTANT)
    return AsOfView("a", ("user",), f"facts{entities}", "time", fields, 7 * DAY), rows.with_columns(
        time=time_column
    )


def measure(kind: str, store: OnlineStore) -> None:
    """Measures one store, which is empty."""
    measure_goals(kind, store)
    for entities in (LOADED, ENTITIES):
        as_of, facts = make_facts(entities)
        store.prepare(plan_of(as_of))
        for snapshot, work in ((1, "rows loaded"), (2, "rows loaded again")):
            begin = time.perf_counter()
            store.load(as_of, facts.to_arrow(), SnapshotPosition("facts", snapshot))
            rate = entities / (time.perf_counter() - begin)
            print_figure(kind, f"{work}, {entities:,} entities", rate, "rows/s")
    measure_reads(kind, store, plan_of(as_of), "as-of view")
    view = make_view()
    store.prepare(plan_of(view))
    rows = events(EVENTS, now_micros(), 2 * DAY).to_arrow()
    begin = time.perf_counter()
    store.fill(view, rows, LogPosition("events", "one", {0: EVENTS}))
    print_figure(kind, "events filled", EVENTS / (time.perf_counter() - begin), "events/s")
    measure_reads(kind, store, plan_of(view), "windowed view")
    measure_reads(kind, store, plan_of(as_of, view), "both views")
    for size in (100, 10_000, 100_000):
        at = store.position(view)
        assert isinstance(at, LogPosition)
        rows = events(size, now_micros(), MINUTE).to_arrow()
        begin = time.perf_counter()
        store.apply([view], rows, at.with_offsets({0: at.offsets[0] + size}), after=at)
        rate = size / (time.perf_counter() - begin)
        print_figure(kind, f"events applied, {size:,} a batch", rate, "events/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object a line (always the case)")
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, closing(open_sqlite(Path(folder) / "online.db")) as store:
        measure("SQLite", store)
    with (
        tempfile.TemporaryDirectory() as folder,
        suppress(Missing),
        postgres(Path(folder), fsync=True) as server,
        closing(open_postgres(server.url, "bench")) as store,
    ):
        measure("PostgreSQL", store)
    with (
        tempfile.TemporaryDirectory() as folder,
        suppress(Missing),
        redis(Path(folder)) as server,
        closing(open_redis(server.url, "bench")) as store,
    ):
        measure("Redis", store)


if __name__ == "__main__":
    main()
