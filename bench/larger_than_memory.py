"""A training set of 10 million labels and 50 million rows of features, in a process of 4 GiB.

    python bench/larger_than_memory.py [--rows 50000000] [--labels 10000000] [--limit 4] [--compute ray]

Both tables are in the lake, unsorted; a tenth of the rows belong to one of a million entities. The most memory
that the process ever had is read from the system, and checked. (A limit on its addresses would say little: the
allocators reserve several times what they use.) The peer is Polars' own join from the same files, in a process
without a limit. The sums of the features are compared first. With `--compute ray` tasks of Ray compute the
features; the time then includes the start of Ray, and CPU and memory are those of the process that builds.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from headrace.config.settings import make_settings
from headrace.declare.model import Model
from headrace.declare.place import Place
from headrace.declare.table import Table
from headrace.declare.trainers import XGBoost
from headrace.features.plan import AsOfView, EntityKey, FeaturePlan, FeatureRef, PlanField
from headrace.lake import Lake
from headrace.lake import open as open_lake
from headrace.projects.project import Project
from headrace.training import training_set

DAY = 86_400_000_000
START = 1_700_000_000_000_000
ENTITIES = 1_000_000
FEATURES = tuple(PlanField(f"f{index}", "float64") for index in range(6))
BATCH = 5_000_000  # rows that are generated at once
INSTANT = pl.Datetime("us", "UTC")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object a line (always the case)")
    parser.add_argument("--rows", type=int, default=50_000_000)
    parser.add_argument("--labels", type=int, default=10_000_000)
    parser.add_argument("--limit", type=float, default=4, help="GiB")
    parser.add_argument("--memory", type=int, default=768, help="the setting join_memory, MiB")
    parser.add_argument("--compute", choices=["local", "ray"], default="local")
    parser.add_argument("--folder", type=Path, help="a folder with the tables of a run before")
    parser.add_argument("--part", choices=["ours", "peer"], help="runs one side in this process")
    options = parser.parse_args()
    if options.part == "ours":
        make_ours(options.folder, options.memory, options.compute)
        return
    if options.part == "peer":
        make_peer(options.folder)
        return
    folder = options.folder or Path(tempfile.mkdtemp(prefix="larger_than_memory_"))
    try:
        if not (folder / "state").exists():
            write_tables(open_project(folder, options.memory)[1], options.rows, options.labels)
        ours = run_part("ours", folder, options)
        peer = run_part("peer", folder, options)
        assert ours["sums"] == peer["sums"], (ours, peer)
        assert ours["peak"] <= options.limit, ours
    finally:
        if not options.folder:
            shutil.rmtree(folder)
    work = f"training set, {options.rows:,} rows x {options.labels:,} labels, {options.limit:g} GiB"
    work += ", on Ray" if options.compute == "ray" else ""
    for name, unit in (("seconds", "s"), ("cpu", "s of CPU"), ("peak", "GiB")):
        figure = {"work": f"{work}: {name}", "ours": ours[name], "unit": unit}
        print(json.dumps(figure | {"peer": peer[name], "ratio": ours[name] / peer[name]}), flush=True)


def run_part(part: str, folder: Path, options: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder)]
    command += ["--memory", str(options.memory), "--compute", options.compute]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])


def open_project(folder: Path, memory: int, compute: str = "local") -> tuple[Project, Lake]:
    values = {"join_memory": memory, "compute": compute}
    settings = make_settings(folder, "large", state=folder / "state", values=values)
    return Project(settings, {}, {}, {}, {}, {}, ()), open_lake(settings)


def write_tables(lake: Lake, rows: int, labels: int) -> None:
    draw = np.random.default_rng(7)
    for name, total, columns in (("facts", rows, [f.name for f in FEATURES]), ("labels", labels, ["target"])):
        for begin in range(0, total, BATCH):
            count = min(BATCH, total - begin)
            entity = draw.integers(0, ENTITIES, count)
            entity[draw.random(count) < 0.1] = 17
            at = pl.Series(START + draw.integers(0, 90 * DAY, count)).cast(INSTANT)
            frame = pl.DataFrame({"entity": entity, "event_timestamp": at})
            values = {column: draw.integers(0, 1 << 20, count) / 1024 for column in columns}
            if name == "labels":
                values = {"target": draw.integers(0, 2, count)}
            arrow = frame.with_columns(**{c: pl.Series(v) for c, v in values.items()}).to_arrow()
            lake.ensure(name, arrow.schema).append(arrow)


def make_plan() -> FeaturePlan:
    view = AsOfView("facts", ("entity",), "facts", "event_timestamp", FEATURES, 30 * DAY)
    features = tuple(FeatureRef("facts", field.name, field.dtype) for field in FEATURES)
    return FeaturePlan("m", (EntityKey("entity", "entity", "int64"),), (view,), features)


def make_ours(folder: Path, memory: int, compute: str) -> None:
    """Makes the training set and prints its figures."""
    project, lake = open_project(folder, memory, compute)
    labels = Table(name="labels", function=lambda frame: frame, reads=(), place=Place("?", 0))
    model = Model("large", labels=labels, target="target", features=None, trainer=XGBoost())
    if lake.table_exists("training_large"):
        lake.drop_table("training_large")
    begin = time.perf_counter()
    training_rows = training_set.make(project, lake, model, make_plan())
    seconds = time.perf_counter() - begin
    figures = measure(seconds)
    rows = lake.table(training_rows.table).scan(training_rows.snapshot)
    print_figures(figures, rows.select(pl.len(), *(pl.col(f"facts__{f.name}") for f in FEATURES)))


def make_peer(folder: Path) -> None:
    lake = open_project(folder, 768)[1]
    begin = time.perf_counter()
    left = lake.table("labels").scan().sort("event_timestamp")
    right = lake.table("facts").scan().sort("event_timestamp")
    joined = left.join_asof(
        right, on="event_timestamp", by="entity", tolerance="30d", check_sortedness=False
    ).select("entity", "event_timestamp", "target", *(field.name for field in FEATURES))
    joined.sink_parquet(folder / "peer.parquet", engine="streaming")
    figures = measure(time.perf_counter() - begin)
    print_figures(figures, pl.scan_parquet(folder / "peer.parquet").select(f.name for f in FEATURES))


def measure(seconds: float) -> dict[str, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak = usage.ru_maxrss / (1 << 20) / (1 if sys.platform == "linux" else 1024)
    return {"seconds": seconds, "cpu": usage.ru_utime + usage.ru_stime, "peak": peak}


def print_figures(figures: dict[str, float], rows: pl.LazyFrame) -> None:
    """Prints the figures and the sums of the features, which are whole multiples of 1/1024 and so exact."""
    names = [name for name in rows.collect_schema() if name != "len"]
    sums = rows.select(pl.len(), *(pl.col(name).sum() for name in names)).collect(engine="streaming").row(0)
    print(json.dumps({**figures, "sums": list(sums)}))


if __name__ == "__main__":
    main()
