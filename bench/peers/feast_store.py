"""Makes a Feast repository with an SQLite online store: python feast_store.py VALUES FOLDER.

VALUES is a NumPy file of float64 [products, features]. Feast's own feature server then serves it.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64


def main() -> None:
    values, folder = np.load(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(
        "project: bench\nprovider: local\nregistry: registry.db\n"
        "online_store:\n  type: sqlite\n  path: online.db\nentity_key_serialization_version: 3\n"
    )
    names = [f"f{n}" for n in range(values.shape[1])]
    rows = pd.DataFrame(dict(zip(names, values.T, strict=True)))
    rows.insert(0, "product_id", np.arange(len(rows)))
    rows["at"] = datetime.now(UTC) - timedelta(hours=1)
    rows.to_parquet(folder / "facts.parquet")
    product = Entity(name="product", join_keys=["product_id"], value_type=ValueType.INT64)
    source = FileSource(path=str(folder / "facts.parquet"), timestamp_field="at")
    view = FeatureView(
        name="facts",
        entities=[product],
        schema=[Field(name=name, dtype=Float64) for name in names],
        source=source,
        ttl=timedelta(days=7),
    )
    store = FeatureStore(repo_path=str(folder))
    store.apply([product, view])
    store.write_to_online_store("facts", rows)


if __name__ == "__main__":
    main()
