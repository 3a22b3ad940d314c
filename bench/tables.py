"""Builds of tables: from scratch beside the same SQL in DuckDB, one late event, 400 days with one changed.

    python bench/tables.py [--json] [--events 10000000] [--days 400] [--rounds 3]

DuckDB runs in an environment of its own (bench/peers/duckdb_tables.py); without uv or a network its figures are
left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from headrace.config.settings import load_settings
from headrace.kernel.properties import LATEST_ARRIVAL
from headrace.kernel.time import micros
from headrace.lake import Lake, LakeTable
from headrace.lake import open as open_lake
from headrace.projects.project import Project, load_project
from headrace.tables.build import TableBuild, build_table

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
MONTH = ("clean", "sessions", "labels")
TABLES = """
from datetime import datetime, timedelta
import polars as pl
from headrace import Struct, by, day, event, table

@event(topic="clicks", time="at", key="user")
class Click(Struct):
    at: datetime
    user: int
    product: int
    price: float

@table(reads=Click, partition_by=day("at"), rowwise=True)
def clean(clicks):
    return clicks.filter(pl.col("price") > 0).select("at", "user", "product", "price", "_known_at")

@table(reads=clean, partition_by=by("user", parts=64))
def sessions(clicks):
    pause = pl.col("at").diff().over("user") > timedelta(minutes=30)
    return (
        clicks.sort("user", "at")
        .with_columns(session=pause.fill_null(False).cast(pl.Int32).cum_sum().over("user"))
        .group_by("user", "session")
        .agg(begin=pl.col("at").min(), end=pl.col("at").max(), clicks=pl.len(), spent=pl.col("price").sum())
        .drop("session")
    )

@table(reads=sessions, partition_by=day("begin"))
def labels(sessions):
    return sessions.select("user", "begin", is_buyer=pl.col("spent") > 100)

@table(reads=clean, partition_by=day("day"))
def daily(clicks):
    return clicks.group_by("product", day=pl.col("at").dt.truncate("1d")).agg(
        clicks=pl.len(), spent=pl.col("price").sum()
    )
"""


def write_project(folder: Path, further: str = "") -> None:
    (folder / "shop").mkdir(parents=True)
    (folder / "headrace.toml").write_text('[project]\nname = "shop"\n')
    (folder / "shop" / "__init__.py").write_text("")
    (folder / "shop" / "tables.py").write_text(TABLES + further)


def load(folder: Path) -> tuple[Project, Lake]:
    project = load_project(load_settings(folder))
    return project, open_lake(project.settings)


def open_project(folder: Path) -> tuple[Project, Lake]:
    write_project(folder)
    return load(folder)


def events(count: int, days: int) -> pl.DataFrame:
    draw = np.random.default_rng(7)
    span = days * 86_400_000_000
    return pl.DataFrame(
        {
            "at": pl.Series(micros(BEGIN) + draw.integers(0, span, count)).cast(pl.Datetime("us", "UTC")),
            "user": draw.integers(0, max(count // 50, 1), count),
            "product": draw.integers(0, 10_000, count),
            "price": draw.lognormal(3, 1, count).round(2),
        }
    ).sort("at")


def append(topic: LakeTable, rows: pl.DataFrame) -> None:
    clock = str(micros(BEGIN + timedelta(days=1000)))
    stored = rows.with_columns(_valid=pl.lit(True), _known_at="at")
    arrow = stored.to_arrow(compat_level=pl.CompatLevel.oldest())
    topic.append(arrow, facts={LATEST_ARRIVAL: clock}, properties={LATEST_ARRIVAL: clock})


def create_topic(lake: Lake) -> LakeTable:
    stamp = pa.timestamp("us", "UTC")
    fields = [("at", stamp), ("user", pa.int64()), ("product", pa.int64()), ("price", pa.float64())]
    fields += [("_log_partition", pa.int32()), ("_log_offset", pa.int64()), ("_arrived_at", stamp)]
    fields += [("_known_at", stamp), ("_valid", pa.bool_())]
    return lake.ensure("clicks", pa.schema(fields), [("_valid", "identity"), ("at", "day")])


def build(project: Project, lake: Lake, *names: str) -> list[TableBuild]:
    return [build_table(project, lake, project.table(name), code="1") for name in names]


class Cost(NamedTuple):
    """What a work took.

    Attributes:
        wall: seconds.
        cpu: seconds of CPU time of all its threads: on a busy machine they are steadier.
        memory: the peak of resident memory in GiB.
    """

    wall: float
    cpu: float
    memory: float


def peak_memory() -> float:
    """The peak of this process's resident memory in GiB (Linux). getrusage would count its parent's too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20


def measure(work: Callable[[], list[TableBuild]]) -> tuple[Cost, list[TableBuild]]:
    start, start_cpu = time.perf_counter(), time.process_time()
    built = work()
    return Cost(time.perf_counter() - start, time.process_time() - start_cpu, peak_memory()), built


def report(work: str, ours: float, peer: float | None = None, unit: str = "s") -> None:
    figure: dict[str, object] = {"work": work, "ours": round(ours, 3), "unit": unit}
    if peer is not None:
        figure |= {"peer": round(peer, 3), "ratio": round(ours / peer, 2)}
    print(json.dumps(figure), flush=True)


def run_duckdb(rows: pl.DataFrame, folder: Path) -> Cost | None:
    """What DuckDB takes for the same tables, from Parquet to Parquet; None if it cannot be run."""
    rows.write_parquet(folder / "events.parquet")
    script = Path(__file__).parent / "peers" / "duckdb_tables.py"
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "run", "--no-project", "--with", "duckdb", "python", str(script), str(folder)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        print(f"DuckDB is left out: {error}", file=sys.stderr)
        return None
    return Cost(*map(float, result.stdout.split()[-3:]))


def build_from_scratch(folder: Path) -> Cost:
    """Builds the tables in a process of its own, as DuckDB has one; prints what it took."""
    command = [sys.executable, __file__, "--child", str(folder)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(*map(float, result.stdout.split()[-3:]))


def bench_month(count: int, folder: Path, rounds: int) -> None:
    """A month of events: from scratch, in turns with DuckDB; then one late event, which changes one user."""
    rows = events(count, 30)
    turns = []
    for number in range(rounds):
        month = folder / f"month{number}"
        _, lake = open_project(month)
        append(create_topic(lake), rows)
        turns.append((build_from_scratch(month), run_duckdb(rows, folder)))
    label = f"clean, sessions, labels of {count:,} events, from scratch"
    ours, peers = [turn[0] for turn in turns], [turn[1] for turn in turns if turn[1] is not None]
    for name, field, unit in (("", 0, "s"), (", CPU time", 1, "s"), (", peak memory", 2, "GiB")):
        peer = median(turn[field] for turn in peers) if peers else None
        report(f"{label}{name}", median(turn[field] for turn in ours), peer, unit)
    project, lake = load(month)
    late_rows = rows.head(1).with_columns(at=pl.lit(BEGIN + timedelta(days=12, hours=5)))
    append(lake.table("clicks"), late_rows)
    late, built = measure(lambda: build(project, lake, *MONTH))
    counts = {table.name: len(table.partitions or []) for table in built}
    assert all(1 <= number <= 3 for number in counts.values()), counts
    report("one late event: days of clean made", counts["clean"], unit="")
    report(
        "one late event: of 64 parts of sessions made",
        counts["sessions"],
        unit="",
    )
    report("one late event: days of labels made", counts["labels"], unit="")
    report("one late event", late.wall)
    report("one late event, CPU time; peer: from scratch", late.cpu, ours[-1].cpu)


def bench_days(days: int, folder: Path) -> None:
    """Many days with few events each: nothing to do, and one day changed."""
    project, lake = open_project(folder / "days")
    topic = create_topic(lake)
    rows = events(days * 500, days)
    append(topic, rows)
    build(project, lake, "clean", "daily")
    nothing, built = measure(lambda: build(project, lake, "clean", "daily"))
    assert all(b.skipped for b in built)
    report(f"{days} days, two tables, nothing to do", nothing.wall)
    append(topic, rows.head(1))
    changed, built = measure(lambda: build(project, lake, "clean", "daily"))
    assert [len(b.partitions or []) for b in built] == [1, 1]
    report(f"{days} days, two tables, one day changed", changed.wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object a line (always so)")
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", type=Path, help="the project that a child process builds")
    options = parser.parse_args()
    if options.child:
        project, lake = load(options.child)
        cost, _ = measure(lambda: build(project, lake, *MONTH))
        print(*cost)
        return
    with tempfile.TemporaryDirectory() as folder:
        bench_days(options.days, Path(folder))
        bench_month(options.events, Path(folder), options.rounds)


if __name__ == "__main__":
    main()
