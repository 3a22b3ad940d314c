"""Historical features by Feast's API: our offline store against Feast's file and DuckDB stores.

    python bench/feast_join.py [--json] [--rows 602316]

One as-of view of 6 features, as many label rows as feature rows, over 30 days and 50,000 entities. All read the
same rows from disk and return a DataFrame; results are compared before figures are printed. The DuckDB store
runs in an environment of its own (bench/peers/feast_duckdb.py); without uv or a network it is left out.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from peers.feast_duckdb import open_store

ROWS, ENTITIES, FEATURES, DAYS = 602_316, 50_000, 6, 30
START = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = [f"f{i}" for i in range(FEATURES)]

PROJECT = """
from datetime import timedelta
import dataframely as dy
from feast import Entity, FeatureView, Field, ValueType
from feast.types import Float64
from headrace import Struct, TableSource, event, table
from datetime import datetime

@event(topic="raw", time="event_timestamp")
class Raw(Struct):
    event_timestamp: datetime
    driver: int

class Stats(dy.Schema):
    driver = dy.Int64()
    event_timestamp = dy.Datetime(time_unit="us", time_zone="UTC")
    f0 = dy.Float64()
    f1 = dy.Float64()
    f2 = dy.Float64()
    f3 = dy.Float64()
    f4 = dy.Float64()
    f5 = dy.Float64()

@table(reads=Raw, schema=Stats)
def stats(raw):
    return raw

driver = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)
stats_view = FeatureView(name="stats", entities=[driver], source=TableSource(stats), ttl=timedelta(days=60),
    schema=[Field(name=f"f{i}", dtype=Float64) for i in range(6)])
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=ROWS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    folder = Path(tempfile.mkdtemp(prefix="feast_join_"))
    try:
        rows, labels = generate_rows(options.rows)
        pq.write_table(rows, folder / "stats.parquet")
        labels.to_parquet(folder / "labels.parquet")
        ours, features = measure(open_headrace(folder / "ours", rows), labels)
        file, theirs = measure(make_query(open_store(folder, "file")), labels)
        check_equal(features, theirs)
        peers = {"file": file}
        if (duckdb := run_duckdb(folder)) is not None:
            check_equal(features, pd.read_parquet(folder / "features.parquet"))
            peers["DuckDB"] = duckdb
    finally:
        shutil.rmtree(folder)
    work = f"historical features, {options.rows:,} x {options.rows:,} rows, {FEATURES} features"
    for name, peer in peers.items():
        if options.json:
            figure = {
                "ours": round(ours, 2),
                "unit": "s",
                "peer": round(peer, 2),
                "ratio": round(peer / ours, 2),
            }
            print(json.dumps({"work": f"{work}, {name} store", **figure}))
        else:
            print(f"{work}: ours {ours:.2f} s, Feast's {name} store {peer:.2f} s, {peer / ours:.1f} times")


def generate_rows(count: int) -> tuple[pa.Table, pd.DataFrame]:
    """Feature rows and labels, with times to the microsecond that differ within an entity."""
    rng = np.random.default_rng(7)
    start, span = int(START.timestamp() * 1e6), DAYS * 86_400_000_000

    def moments() -> pa.Array:
        return pa.array(start + rng.integers(0, span, count), pa.timestamp("us", "UTC"))

    rows = {"driver": rng.integers(0, ENTITIES, count), "event_timestamp": moments()}
    rows |= {name: rng.random(count) for name in NAMES}
    labels = pa.table({"driver": rng.integers(0, ENTITIES, count), "event_timestamp": moments()})
    return pa.table(rows), labels.to_pandas()


def open_headrace(root: Path, rows: pa.Table) -> Callable[[pd.DataFrame], pd.DataFrame]:
    from feast import FeatureStore

    from headrace import lake
    from headrace.config.settings import load_settings
    from headrace.features.feast import apply
    from headrace.projects.project import load_project

    (root / "joined").mkdir(parents=True)
    (root / "headrace.toml").write_text('[project]\nname = "joined"\n')
    (root / "joined" / "__init__.py").write_text("")
    (root / "joined" / "features.py").write_text(PROJECT)
    project = load_project(load_settings(root))
    lake.open(project.settings).ensure("stats", rows.schema).append(rows)
    return make_query(FeatureStore(repo_path=str(apply(project).folder)))


def run_duckdb(folder: Path) -> float | None:
    """The seconds of Feast's DuckDB store, which writes features.parquet; None without uv or a network."""
    script, version = Path(__file__).parent / "peers" / "feast_duckdb.py", metadata.version("feast")
    uv = Path(sys.executable).with_name("uv")
    needs = ["--with", f"feast[duckdb]=={version}", "--with", "pandas<3"]
    command = [str(uv), "run", "--no-project", *needs, "python", str(script), str(folder)]
    if not uv.exists():
        return None
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        print(f"Feast's DuckDB store is left out: {process.stderr.strip()[-300:]}", file=sys.stderr)
        return None
    return float(process.stdout.split()[-1])


def make_query(store: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A function that joins the features to labels, warmed up."""
    features = [f"stats:{name}" for name in NAMES]

    def run_query(labels: pd.DataFrame) -> pd.DataFrame:
        return store.get_historical_features(entity_df=labels, features=features).to_df()  # type: ignore[attr-defined]

    run_query(generate_rows(1000)[1])  # warm-up: the first call imports modules
    return run_query


def measure(
    run_query: Callable[[pd.DataFrame], pd.DataFrame], labels: pd.DataFrame
) -> tuple[float, pd.DataFrame]:
    start = time.perf_counter()
    features = run_query(labels)
    return time.perf_counter() - start, features


def check_equal(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """Both stores give a label the same values; Feast's drops the labels without features."""
    keys = ["driver", "event_timestamp"]
    both = ours.merge(theirs, on=keys, how="left", suffixes=("", "_theirs"), indicator=True)
    known = both["_merge"] == "both"
    assert known.sum() == len(theirs)
    for name in NAMES:
        assert both.loc[~known, name].isna().all(), name
        assert np.array_equal(both.loc[known, name], both.loc[known, f"{name}_theirs"], equal_nan=True), name


if __name__ == "__main__":
    main()
