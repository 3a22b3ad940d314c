"""A small project on disk whose models can be trained in a few seconds."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_project"]

_DECLARATIONS = """
from datetime import timedelta

import polars as pl
from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.types import Float64

from headrace import Model, TableSource, XGBoost, source, table

rows = source("rows", "data/rows.csv", schema={"at": pl.Datetime("us", "UTC")})


@table(reads=rows)
def facts(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.select("thing", "x", event_timestamp="at")


@table(reads=rows)
def labels(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.select("thing", "y", event_timestamp=pl.col("at") + timedelta(minutes=1))


thing = Entity(name="thing", join_keys=["thing"], value_type=ValueType.INT64)
view = FeatureView(name="facts", entities=[thing], source=TableSource(facts, timestamp_field="event_timestamp"),
                   schema=[Field(name="x", dtype=Float64)])
service = FeatureService(name="service", features=[view])
"""
_MODEL = """
{variable} = Model("{name}", labels=labels, target="y", features=service, task="regression",
                   trainer=XGBoost(num_boost_round=5))
"""


def write_project(root: Path, *models: str) -> Path:
    """Writes the project `small` with these models into a new folder."""
    (root / "small").mkdir(parents=True)
    (root / "data").mkdir()
    (root / "headrace.toml").write_text('[project]\nname = "small"\n[profile.local]\n')
    (root / "small" / "__init__.py").write_text("")
    declared = [_MODEL.format(variable=f"model_{n}", name=name) for n, name in enumerate(models)]
    (root / "small" / "models.py").write_text("".join([_DECLARATIONS, *declared]))
    lines = [f"{n % 7},2024-01-{n // 24 + 1:02}T{n % 24:02}:00:00Z,{n % 5}.5,{n % 5 * 2}.0" for n in range(200)]
    (root / "data" / "rows.csv").write_text("\n".join(["thing,at,x,y", *lines, ""]))
    return root
