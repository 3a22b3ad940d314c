"""The cost of the lake's commits, scans and incremental builds, and whether it stays flat.

python bench/lake.py [--json] [--commits 10000] [--served]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl
import pyarrow as pa
from pyarrow.fs import FileSelector

from headrace import lake
from headrace.config.settings import load_settings
from headrace.kernel.properties import LATEST_ARRIVAL
from headrace.lake import Lake, LakeTable
from headrace.projects.project import Project, load_project
from headrace.tables.build import build_table

ROWS = 250_000
DAYS = 14
DAY = 86_400_000_000
START = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
KINDS = np.array(["view", "view", "view", "cart", "purchase", "remove_from_cart"])
STAMP = pa.timestamp("us", "UTC")


def events(count: int, seed: int, first_day: int = 0, days: int = DAYS) -> pa.Table:
    """Judged events as ingest writes them: 17 columns, a tenth refused, sessions of about 8 events."""
    random = np.random.default_rng(seed)
    sessions = count // 8 + 1
    session = random.integers(0, sessions, count)
    start = START + first_day * DAY + random.integers(0, days * DAY, sessions)
    at = start[session] + random.integers(0, 1_800_000_000, count)
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
            "_reason": only_refused("not a number", pa.string()),
        }
    )


def create_topic_table(opened: Lake, name: str, schema: pa.Schema) -> LakeTable:
    return opened.ensure(name, schema, [("_valid", "identity"), ("event_time", "day")])


def append(table: LakeTable, rows: pa.Table) -> None:
    clock = str(max(rows["_arrived_at"].cast(pa.int64()).to_pylist()))
    table.append(rows, facts={LATEST_ARRIVAL: clock}, properties={LATEST_ARRIVAL: clock})


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def bench_appends(opened: Lake, report: Callable[[str, float, str], None]) -> None:
    rows = events(ROWS, seed=0, days=2)
    table = create_topic_table(opened, "appended", rows.schema)
    append(table, rows.slice(0, 10))
    report(
        "append 250,000 rows of 17 columns",
        median(seconds_of(lambda: append(table, rows)) for _ in range(5)),
        "s",
    )
    small = [seconds_of(lambda: append(table, rows.slice(0, 100))) for _ in range(300)]
    report("small append, the first 50 of 300", median(small[:50]) * 1000, "ms")
    report("small append, the last 50 of 300", median(small[-50:]) * 1000, "ms")
    count = table.scan().select(pl.len()).collect().item()
    seconds = median(seconds_of(lambda: table.scan().collect()) for _ in range(3))
    report("scan of all columns", count / seconds, "rows/s")
    one_day = pl.col("event_time").dt.date() == datetime(2024, 1, 1, tzinfo=UTC).date()
    pruned = (pl.col("event_time") < datetime(2024, 1, 2, tzinfo=UTC)) & one_day
    seconds = median(
        seconds_of(lambda: table.scan().filter(pruned).select("price").collect()) for _ in range(3)
    )
    report("scan of one column of one day", seconds * 1000, "ms")
    head = table.current_snapshot()
    assert head is not None
    since = table.snapshots()[0].id
    report(
        "days changed since 100 appends ago",
        1000 * seconds_of(lambda: table.days_changed("event_time", since, head.id)),
        "ms",
    )


def bench_commits(opened: Lake, report: Callable[[str, float, str], None], commits: int) -> None:
    """Many small commits while maintenance runs, as in an ingest, with grace periods of seconds."""
    rows = events(1000, seed=3, days=1)
    table = create_topic_table(opened, "committed", rows.schema)
    short = timedelta(seconds=min(10.0, commits / 400))
    hundreds, garbage = [], []
    with ThreadPoolExecutor(1) as thread:
        maintenance: Future[object] | None = None
        for hundred in range(commits // 100):
            hundreds.append(
                median(seconds_of(lambda: append(table, rows.slice(0, 10))) for _ in range(100)) * 1000
            )
            garbage.append(overhead(table))
            if maintenance is None or maintenance.done():
                if maintenance is not None:
                    maintenance.result()
                maintenance = thread.submit(
                    lake.maintain, table, older_than=short, grace=short, longest_write=short
                )
            if hundred % 10 == 9:
                report(f"small commit, hundred {hundred + 1}", hundreds[-1], "ms")
                report("  files beside the rows", garbage[-1][0], "files")
                report("  bytes beside the rows", garbage[-1][1] / 1e6, "MB")
    report(f"small commit, the first hundred of {commits:,}", hundreds[0], "ms")
    report(f"small commit, the last hundred of {commits:,}", hundreds[-1], "ms")
    report("the last hundred by the first", hundreds[-1] / hundreds[0], "x")
    half = len(garbage) // 2
    report(
        "most bytes beside the rows, second half by first",
        largest_overhead(garbage[half:]) / largest_overhead(garbage[:half]),
        "x",
    )


def overhead(table: LakeTable) -> tuple[int, int]:
    """The number and bytes of the table's files, without the data files of the newest snapshot."""
    iceberg = table.iceberg()
    scheme, netloc, folder = iceberg.io.parse_location(iceberg.location())
    infos = iceberg.io.fs_by_scheme(scheme, netloc).get_file_info(FileSelector(folder, recursive=True))
    sizes = [info.size for info in infos if info.is_file]
    summary = iceberg.current_snapshot().summary
    return len(sizes) - int(summary["total-data-files"]), sum(sizes) - int(summary["total-files-size"])


def largest_overhead(garbage: list[tuple[int, int]]) -> int:
    return max(size for _, size in garbage)


def bench_build(project: Project, opened: Lake, report: Callable[[str, float, str], None]) -> None:
    rows = events(200_000, seed=1)
    table = create_topic_table(opened, "user_behaviour", rows.schema)
    append(table, rows)
    names = ("clean_events", "departments", "product_facts", "view_outcomes")

    def build() -> None:
        for name in names:
            build_table(project, opened, project.table(name), code="1")

    for name in names:
        seconds = seconds_of(lambda name=name: build_table(project, opened, project.table(name), code="1"))
        report(f"build of {name}, 200,000 events of {DAYS} days", seconds, "s")
    report("build with nothing to do, 4 tables", seconds_of(build), "s")
    append(table, events(1000, seed=2, first_day=5, days=1))
    report("build after 1,000 late events of one day, 4 tables", seconds_of(build), "s")


def open_shop(folder: Path) -> Project:
    source = Path(__file__).parents[1] / "examples" / "shop"
    shutil.copytree(source, folder, dirs_exist_ok=True)
    return load_project(load_settings(folder), without=["feast"])


@contextlib.contextmanager
def serve_lake(project: Project, scratch: Path) -> Iterator[Lake]:
    """Opens the project's lake on a REST catalog and S3, which it runs until the block ends."""
    from services.catalog import catalog
    from services.s3 import store

    folders = [scratch / name for name in ("s3", "catalog")]
    for folder in folders:
        folder.mkdir()
    with (
        store(folders[0]) as objects,
        catalog(folders[1], objects.url, environment=objects.environment) as tables,
    ):
        os.environ.update(objects.environment)
        yield lake.open(project.settings.with_values(catalog=tables.url, warehouse=objects.url))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--commits", type=int, help="only this many small commits in a row")
    parser.add_argument(
        "--served", action="store_true", help="use a REST catalog and S3, which the benchmark starts"
    )
    options = parser.parse_args()

    def report(work: str, ours: float, unit: str) -> None:
        figure = {"work": work, "ours": round(ours, 4), "unit": unit}
        print(json.dumps(figure) if options.json else f"{work:<58} {ours:>14,.4g} {unit}", flush=True)

    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        project = open_shop(Path(scratch) / "shop")
        local = lake.open(project.settings)
        opened = stack.enter_context(serve_lake(project, Path(scratch))) if options.served else local
        if options.commits:
            bench_commits(opened, report, options.commits)
            return
        bench_appends(opened, report)
        bench_commits(opened, report, 1000)
        bench_build(project, opened, report)


if __name__ == "__main__":
    main()
