"""Projects in a temporary folder: the shop, and a small one that a test can change."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import headrace.features.feast  # noqa: F401  (before any test imports Feast itself: quicker)
from headrace.config.settings import load_settings
from headrace.projects.project import Project, load_project

SHOP = Path(__file__).parents[3] / "examples" / "shop"

EVENTS = """
from datetime import datetime
from headrace import Struct, event

@event(topic="clicks", time="at", key="user_id")
class Click(Struct):
    at: datetime
    user_id: int
    item: str
    price: float | None = None
"""

TABLES = """
import dataframely as dy
import polars as pl
from headrace import day, table
from small.events import Click

class Rows(dy.Schema):
    at = dy.Datetime(time_unit="us", time_zone="UTC")
    user_id = dy.Int64()
    item = dy.String()
    price = dy.Float64(nullable=True)

SCALE = 2.0

@table(reads=Click, partition_by=day("at"), rowwise=True, schema=Rows)
def scaled(clicks):
    return clicks.select("at", "user_id", "item", "_known_at", pl.col("price") * SCALE)

@table(reads=scaled, partition_by=day("at"), schema=Rows)
def sorted_rows(rows):
    return rows.sort("at")

class Facts(dy.Schema):
    item = dy.String()
    event_timestamp = dy.Datetime(time_unit="us", time_zone="UTC")
    clicks = dy.Int64()
    mean_price = dy.Float64(nullable=True)

@table(reads=scaled, schema=Facts)
def item_facts(rows):
    return rows.group_by("item").agg(
        event_timestamp=pl.col("at").max(), clicks=pl.len().cast(pl.Int64), mean_price=pl.col("price").mean()
    )

class Labels(dy.Schema):
    user_id = dy.Int64()
    item = dy.String()
    event_timestamp = dy.Datetime(time_unit="us", time_zone="UTC")
    price = dy.Float64(nullable=True)
    bought = dy.Int64()

@table(reads=scaled, schema=Labels)
def labels(rows):
    return rows.select("user_id", "item", pl.col("at").alias("event_timestamp"), "price", bought=pl.lit(1))
"""

FEATURES = """
from datetime import timedelta
from feast import Aggregation, BatchFeatureView, Entity, FeatureService, FeatureView, Field
from feast import StreamFeatureView, ValueType
from feast.data_source import PushSource, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bytes
from feast.types import Float64, Int64, String
from headrace import Model, TableSource, XGBoost
from small.events import Click
from small.tables import item_facts, labels, scaled, sorted_rows

DAY = timedelta(days=1)
user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
item = Entity(name="item", join_keys=["item"], value_type=ValueType.STRING)
facts = FeatureView(name="facts", entities=[item], ttl=DAY,
    source=PushSource(name="facts_stream", batch_source=TableSource(item_facts)),
    schema=[Field(name="clicks", dtype=Int64), Field(name="mean_price", dtype=Float64)])
activity = StreamFeatureView(name="activity", entities=[user], timestamp_field="at",
    source=PushSource(name="scaled_stream", batch_source=TableSource(scaled)),
    aggregations=[Aggregation(column="price", function="sum", time_window=DAY, name="spent")],
    schema=[Field(name="spent", dtype=Float64)])
asked = RequestSource(name="asked", schema=[Field(name="price", dtype=Float64)])
TIMES = 1.0

@on_demand_feature_view(sources=[facts, asked], schema=[Field(name="ratio", dtype=Float64)],
    mode="python", singleton=True)
def moment(inputs):
    return {"ratio": None if not inputs["mean_price"] else TIMES * inputs["price"] / inputs["mean_price"]}

bought_features = FeatureService(name="bought", features=[activity, facts, moment])
bought = Model("bought", labels=labels, target="bought", features=bought_features, trainer=XGBoost())
"""


@pytest.fixture
def database() -> str | dict[str, str]:
    """The database of the small project's online store and registry, or setting → address; empty: files. A
    module may replace it."""
    return ""


@pytest.fixture
def small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str | dict[str, str]
) -> Callable[..., Project]:
    """Makes the small project, with (old, new) replaced in its features or its tables, and loads it."""

    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # an edit within a second must be seen

    def make(*replaced: tuple[str, str], tables: tuple[tuple[str, str], ...] = (), name: str = "p") -> Project:
        root = tmp_path / name
        package = root / "small"
        package.mkdir(parents=True, exist_ok=True)
        addresses = database
        if isinstance(addresses, str):
            addresses = {"online": addresses, "feast_registry": addresses} if addresses else {}
        settings = "".join(f'{name} = "{address}"\n' for name, address in addresses.items())
        (root / "headrace.toml").write_text(f'[project]\nname = "small"\n[profile.local]\n{settings}')
        files: list[tuple[str, str, tuple[tuple[str, str], ...]]] = [
            ("__init__.py", "", ()),
            ("events.py", EVENTS, ()),
            ("tables.py", TABLES, tables),
            ("features.py", FEATURES, replaced),
        ]
        for file, text, changes in files:
            for old, new in changes:
                assert old in text
                text = text.replace(old, new)
            (package / file).write_text(text)
        for module in [name for name in sys.modules if name.split(".")[0] == "small"]:
            del sys.modules[module]
        return load_project(load_settings(root))

    return make


@pytest.fixture
def shop(tmp_path: Path) -> Project:
    """The shop, in a temporary folder."""
    root = tmp_path / "shop_project"
    shutil.copytree(SHOP, root, ignore=shutil.ignore_patterns(".headrace", "__pycache__"))
    return load_project(load_settings(root))
