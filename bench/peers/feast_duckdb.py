"""Historical features by Feast's DuckDB store, for bench/feast_join.py, in an environment without Headrace.

    python bench/peers/feast_duckdb.py FOLDER

FOLDER has stats.parquet and labels.parquet. It gets features.parquet, and the seconds of the second call are
printed.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64

NAMES = [f"f{index}" for index in range(6)]


def open_store(folder: Path, kind: str) -> FeatureStore:
    """Feast on the rows of stats.parquet, with its offline store of this kind (file or duckdb)."""
    store = FeatureStore(
        config=RepoConfig(
            project="joined",
            provider="local",
            registry=str(folder / f"{kind}.db"),
            offline_store={"type": kind},
            online_store={"type": "sqlite", "path": str(folder / f"{kind}_online.db")},
            entity_key_serialization_version=3,
        )
    )
    driver = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)
    view = FeatureView(
        name="stats",
        entities=[driver],
        source=FileSource(path=str(folder / "stats.parquet"), timestamp_field="event_timestamp"),
        ttl=timedelta(days=60),
        schema=[Field(name=name, dtype=Float64) for name in NAMES],
    )
    store.apply([driver, view])
    return store


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    folder = Path(sys.argv[1])
    store, labels = open_store(folder, "duckdb"), pd.read_parquet(folder / "labels.parquet")
    features = [f"stats:{name}" for name in NAMES]
    for entity_df in (labels.head(1000), labels):  # the first call imports modules
        begin = time.perf_counter()
        rows = store.get_historical_features(entity_df=entity_df, features=features).to_df()
        seconds = time.perf_counter() - begin
    rows.to_parquet(folder / "features.parquet")
    print(seconds)


if __name__ == "__main__":
    main()
