"""Features over a changelog: stock Feast sees each row as it was then, and a deleted row as null."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from feast import FeatureStore
from tests.events.customers import NOON, change

from headrace import log
from headrace.api import project as opened
from headrace.config.settings import load_settings
from headrace.features.feast import apply
from headrace.features.feast.compiler import collect_objects
from headrace.features.feast.views import compile_stored_view
from headrace.flows.events.ingest import ingest
from headrace.kernel.errors import ProjectError
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


def test_current_rows_by_another_column_are_rows_and_no_changes(root: Path) -> None:
    """A value that the database never sent is null, and not that of another row with the same name."""
    settings = load_settings(root)
    features = root / "till" / "features.py"
    by_name = """
namesake = Entity(name="namesake", join_keys=["name"], value_type=ValueType.STRING)
rows = TableSource(current(Customer))
newest = FeatureView(name="newest", entities=[namesake], source=rows, schema=schema[1:])
"""
    features.write_text(FEATURES + by_name)
    topic = log.open(settings.log.url)
    topic.create("shop.public.customers")
    unsent = "__debezium_unavailable_value"
    topic.append(
        "shop.public.customers",
        [
            change("c", 10, {"id": 1, "name": "a", "balance": "0.1"}),
            change("u", 20, {"id": 2, "name": "a", "balance": unsent}),
            change("c", 30, {"id": 3, "name": "b", "balance": "0.3"}, at=50),
            change("c", 40, {"id": 4, "name": "b", "balance": "0.4"}),
        ],
    )
    topic.close()
    ingest(Workspace(settings), until_end=True)
    opened(root).build()
    store = FeatureStore(repo_path=str(apply(load_project(settings)).folder))
    asked = pd.DataFrame({"name": ["a", "a", "b", "b"], "event_timestamp": [at(15), at(25), at(45), at(55)]})
    features = store.get_historical_features(asked, ["newest:balance"]).to_df()
    assert values_of(features["balance"]) == [0.1, None, 0.4, 0.3]
    store.materialize_incremental(datetime.now(UTC))
    read = store.get_online_features(["newest:balance"], [{"name": "a"}, {"name": "b"}])
    assert read.to_dict()["balance"] == [None, 0.3]


@pytest.mark.parametrize(
    ("view", "wrong"),
    [
        ("entities=[namesake], source=TableSource(Customer)", "has the keys name"),
        ("entities=[], source=TableSource(Customer)", "has no entity"),
        ("entities=[customer], source=TableSource(Customer, 'seen')", "has timestamp_field='seen'"),
    ],
)
def test_changes_are_read_by_their_own_key_and_time(root: Path, view: str, wrong: str) -> None:
    """A deleted row has nothing else, so that by anything else it would be seen for ever."""
    declared = root / "till" / "customers.py"
    declared.write_text(
        declared.read_text().replace("from decimal", "from datetime import datetime\nfrom decimal")
        + "    seen: datetime | None = None\n"
    )
    text = f"""
namesake = Entity(name="namesake", join_keys=["name"], value_type=ValueType.STRING)
other = FeatureView(name="other", schema=schema[1:], {view})
"""
    (root / "till" / "features.py").write_text(FEATURES + text)
    objects = collect_objects(load_project(load_settings(root)))
    with pytest.raises(ProjectError, match=f"'other' reads the changes of shop_public_customers, and {wrong}"):
        compile_stored_view(objects.views["other"], objects.entities, "here")
