"""Builds of tables of 100 million rows in a process that may use 4 GiB of memory.

    python bench/large_table.py [--json] [--rows 100000000] [--gib 4]

A child process builds each table under RLIMIT_AS, which counts all that the process maps: a table by day, a
rowwise table without partitions, and one by the hash of a key. The figure is the peak of its resident memory.
A table that is not built within the limit is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import polars as pl

from headrace.tables.build import build_table
from tables import append, create_topic, events, load, peak_memory, write_project

APPEND = 5_000_000  # rows of each commit to the topic
# The C library and Arrow's own allocator reserve 2 GiB of addresses that they never use.
LITTLE_RESERVED = {"MALLOC_ARENA_MAX": "2", "ARROW_DEFAULT_MEMORY_POOL": "system"}
TABLES = """
@table(reads=Click, rowwise=True)
def flat(clicks):
    return clicks.filter(pl.col("price") > 0).select("at", "user", "product", "price", "_known_at")
"""


def fill_topic(folder: Path, rows: int) -> None:
    _, lake = load(folder)
    topic = create_topic(lake)
    for start in range(0, rows, APPEND):
        count = min(APPEND, rows - start)
        day = timedelta(days=30 * start / rows)
        part = events(count, max(1, round(30 * count / rows))).with_columns(pl.col("at") + day)
        append(topic, part)


def build_in_child(folder: Path, name: str, gib: float) -> bool:
    """Builds a table in a child process with so much memory, and prints what it took. Whether it was built."""
    command = [sys.executable, __file__, "--child", name, "--folder", str(folder), "--gib", str(gib)]
    result = subprocess.run(command, check=False, env={**os.environ, **LITTLE_RESERVED})
    if result.returncode:
        print(f"{name} was not built within {gib:g} GiB", file=sys.stderr)
    return result.returncode == 0


def build_within(folder: Path, name: str, gib: float) -> None:
    limit = int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    project, lake = load(folder)
    start, start_cpu = time.perf_counter(), time.process_time()
    built = build_table(project, lake, project.table(name), code="1")
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    peak = peak_memory()
    partitioning = project.table(name).partition_by
    made = "without partitions" if partitioning is None else f"partitioned {partitioning.describe()}"
    work = f"{name}: {built.rows:,} rows ({made}) within {gib:g} GiB"
    print(json.dumps({"work": work, "ours": round(seconds, 1), "unit": "s", "cpu": round(cpu, 1)}), flush=True)
    print(json.dumps({"work": f"{work}, peak memory", "ours": round(peak, 2), "unit": "GiB"}), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object a line (always so)")
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--gib", type=float, default=4)
    parser.add_argument("--child", help="the table that a child process builds")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.child:
        build_within(options.folder, options.child, options.gib)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "large"
        write_project(folder, TABLES)
        fill_topic(folder, options.rows)
        is_built = [build_in_child(folder, table, options.gib) for table in ("clean", "flat", "sessions")]
    return 0 if all(is_built) else 1


if __name__ == "__main__":
    sys.exit(main())
