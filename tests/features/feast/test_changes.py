"""Features over a changelog: stock Feast sees each row as it was then, and a deleted row as null."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from feast import FeatureStore
from tests.events.customers import NOON, change

from headrace import log
from headrace.api import project as opened
from headrace.config.settings import load_settings
from headrace.features.feast import apply
from headrace.flows.events.ingest import ingest
from headrace.kernel.time import from_micros
from headrace.projects.project import load_project
from headrace.workspace import Workspace

DECLARED = """
from decimal import Decimal
from headrace import Struct, changes

@changes(topic="shop.public.customers", key=["id"])
class Customer(Struct):
    id: int
    name: str
    balance: Decimal | None = None
"""
FEATURES = """
from feast import Entity, FeatureView, Field, ValueType
from feast.types import Float64, String
from headrace import TableSource, current
from till.customers import Customer

customer = Entity(name="customer", join_keys=["id"], value_type=ValueType.INT64)
schema = [Field(name="name", dtype=String), Field(name="balance", dtype=Float64)]
then = FeatureView(name="then", entities=[customer], source=TableSource(Customer), schema=schema)
now = FeatureView(name="now", entities=[customer], source=TableSource(current(Customer)), schema=schema)
"""


def at(seconds: int) -> datetime:
    return from_micros(NOON) + timedelta(seconds=seconds)


def values_of(column):
    """The values, None for NaN."""
    return [None if pd.isna(value) else value for value in column]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "p" / "till"
    package.mkdir(parents=True)
    (package.parent / "headrace.toml").write_text('[project]\nname = "till"\n')
    (package / "__init__.py").write_text("")
    (package / "customers.py").write_text(DECLARED)
    (package / "features.py").write_text(FEATURES)
    for module in [name for name in sys.modules if name.split(".")[0] == "till"]:
        monkeypatch.delitem(sys.modules, module)
    return package.parent


def test_a_changelog_gives_historical_rows_and_the_current_row(root: Path) -> None:
    settings = load_settings(root)
    topic = log.open(settings.log.url)
    topic.create("shop.public.customers")
    topic.append(
        "shop.public.customers",
        [
            change("r", 1, {"id": 1, "name": "a", "balance": "0.1"}, snapshot="last"),
            change("c", 10, {"id": 2, "name": "b"}),
            change("u", 20, {"id": 1, "name": "a2", "balance": "0.2"}),
            change("d", 30, {"id": 1, "name": ""}),
            change("u", 15, {"id": 1, "name": "late", "balance": "0.15"}),
        ],
    )
    topic.close()
    ingest(Workspace(settings), until_end=True)
    opened(root).build()
    store = FeatureStore(repo_path=str(apply(load_project(settings)).folder))
    moments = [0, 1, 12, 17, 25, 35]
    asked = pd.DataFrame({"id": 1, "event_timestamp": [at(moment) for moment in moments]})
    features = store.get_historical_features(asked, ["then:name", "then:balance"]).to_df()
    assert [None if pd.isna(value) else value for value in features["name"]] == [
        None,
        "a",
        "a",
        "late",
        "a2",
        None,
    ]
    assert [None if pd.isna(value) else value for value in features["balance"]] == [
        None,
        0.1,
        0.1,
        0.15,
        0.2,
        None,
    ]
    both = pd.DataFrame({"id": [1, 2], "event_timestamp": at(40)})
    assert store.get_historical_features(both, ["now:name"]).to_df()["name"].fillna("").tolist() == ["", "b"]
    assert opened(root).as_of("shop.public.customers", at(17))["name"].to_list() == ["late", "b"]
