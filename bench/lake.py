"""The lake and its tables: what a commit, a scan and a build in steps cost.

python bench/lake.py [--json]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl
import pyarrow as pa

from headrace import lake
from headrace.config.settings import load_settings
from headrace.declare.project import Project, load_project
from headrace.lake import Lake, LakeTable
from headrace.tables import build_table

ROWS = 250_000
DAYS = 14
DAY = 86_400_000_000
START = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
KINDS = np.array(["view", "view", "view", "cart", "purchase", "remove_from_cart"])
STAMP = pa.timestamp("us", "UTC")


def events(count: int, seed: int, first_day: int = 0, days: int = DAYS) -> pa.Table:
    """Judged events as ingest gives them: 17 columns, a tenth of them refused, sessions of about 8."""
    random = np.random.default_rng(seed)
    sessions = count // 8 + 1
    session = random.integers(0, sessions, count)
    begun = START + first_day * DAY + random.integers(0, days * DAY, sessions)
    at = begun[session] + random.integers(0, 1_800_000_000, count)
    refused = random.random(count) < 0.1
    products = random.integers(0, 20_000, count)

    def only_refused(value: str, kind: pa.DataType) -> pa.Array:
        return pa.array([value if r else None for r in refused], kind)

    return pa.table(
        {
            "event_time": pa.array(at, STAMP),
            "event_type": pa.array(KINDS[random.integers(0, len(KINDS), count)]),
            "product_id": products,
            "category_id": products % 300,
            "user_id": session % 40_000,
            "price": np.round(1 + random.random(count) * 1000, 2),
            "user_session": pa.array([f"{seed:08x}-0000-4000-8000-{s:012x}" for s in session]),
            "category_code": pa.array(np.array(["electronics.audio", "home.kitchen", ""])[products % 3]),
            "brand": pa.array(np.array(["acme", "bolt", "crux", ""])[products % 4]),
            "_log_partition": pa.array(np.zeros(count, np.int32)),
            "_log_offset": np.arange(count, dtype=np.int64),
            "_arrived_at": pa.array(np.full(count, START + (first_day + days) * DAY), STAMP),
            "_valid": pa.array(~refused),
            "_raw": only_refused("{...}", pa.string()).cast(pa.binary()),
            "_code": only_refused("wrong_type", pa.string()),
            "_field": only_refused("price", pa.string()),
            "_reason": only_refused("it is no number", pa.string()),
        }
    )


def topic(opened: Lake, name: str, schema: pa.Schema) -> LakeTable:
    return opened.ensure(name, schema, [("_valid", "identity"), ("event_time", "day")])


def add(table: LakeTable, rows: pa.Table) -> None:
    clock = str(max(rows["_arrived_at"].cast(pa.int64()).to_pylist()))
    table.append(rows, facts={"headrace.arrived_at": clock}, properties={"headrace.clock": clock})


def took(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def bench_appends(opened: Lake, tell: Callable[[str, float, str], None]) -> None:
    rows = events(ROWS, seed=0, days=2)
    table = topic(opened, "appended", rows.schema)
    add(table, rows.slice(0, 10))
    tell("append 250,000 rows of 17 columns", median(took(lambda: add(table, rows)) for _ in range(5)), "s")
    small = [took(lambda: add(table, rows.slice(0, 100))) for _ in range(300)]
    tell("small append, the first 50 of 300", median(small[:50]) * 1000, "ms")
    tell("small append, the last 50 of 300", median(small[-50:]) * 1000, "ms")
    count = table.scan().select(pl.len()).collect().item()
    seconds = median(took(lambda: table.scan().collect()) for _ in range(3))
    tell("scan of all columns", count / seconds, "rows/s")
    one_day = pl.col("event_time").dt.date() == datetime(2024, 1, 1, tzinfo=UTC).date()
    pruned = (pl.col("event_time") < datetime(2024, 1, 2, tzinfo=UTC)) & one_day
    seconds = median(took(lambda: table.scan().filter(pruned).select("price").collect()) for _ in range(3))
    tell("scan of one column of one day", seconds * 1000, "ms")
    head = table.head()
    assert head is not None
    since = table.history()[0].id
    tell(
        "days changed since 100 appends ago",
        1000 * took(lambda: table.days_changed("event_time", since, head.id)),
        "ms",
    )


def bench_build(project: Project, opened: Lake, tell: Callable[[str, float, str], None]) -> None:
    rows = events(200_000, seed=1)
    table = topic(opened, "user_behaviour", rows.schema)
    add(table, rows)
    names = ("clean_events", "departments", "product_facts", "view_outcomes")

    def build() -> None:
        for name in names:
            build_table(project, opened, project.table(name), code="1")

    for name in names:
        seconds = took(lambda name=name: build_table(project, opened, project.table(name), code="1"))
        tell(f"build of {name}, 200,000 events of {DAYS} days", seconds, "s")
    tell("build with nothing to do, 4 tables", took(build), "s")
    add(table, events(1000, seed=2, first_day=5, days=1))
    tell("build after 1,000 late events of one day, 4 tables", took(build), "s")


def shop(folder: Path) -> Project:
    source = Path(__file__).parents[1] / "examples" / "shop"
    shutil.copytree(source, folder, dirs_exist_ok=True)
    return load_project(load_settings(folder), without=["feast"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object a line")
    as_json = parser.parse_args().json

    def tell(work: str, ours: float, unit: str) -> None:
        figure = {"work": work, "ours": round(ours, 4), "unit": unit}
        print(json.dumps(figure) if as_json else f"{work:<58} {ours:>14,.4g} {unit}", flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        project = shop(Path(scratch))
        opened = lake.open(project.settings)
        bench_appends(opened, tell)
        bench_build(project, opened, tell)


if __name__ == "__main__":
    main()
