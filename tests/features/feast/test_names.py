"""Views under other names and keys, columns under other names, views without an entity, rows made again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from feast import FeatureStore, FeatureView, Field
from feast.types import Int64

from headrace import TableSource, lake
from headrace.features import online
from headrace.features.feast import apply, compile  # noqa: A004
from headrace.features.feast.repository import settings_of
from headrace.features.offline.point_in_time import join
from headrace.features.online.backfill import fill
from headrace.features.plan.sources import source_columns
from headrace.projects.project import Project

HOUR = timedelta(hours=1)
INSTANT = pa.timestamp("us", "UTC")
NOW = datetime.now(UTC).replace(microsecond=0)
FACTS = [("a", NOW - 3 * HOUR, 1, 2.0), ("a", NOW - HOUR, 3, 4.0), ("b", NOW - 2 * HOUR, 5, None)]
OTHER = "facts.with_name('other').with_join_key_map({'item': 'other_item'})"
TWICE = f"features=[facts.with_name('first'), {OTHER}, moment]"
OTHER_ITEM = (
    ("class Labels(dy.Schema):\n", "class Labels(dy.Schema):\n    other_item = dy.String()\n"),
    ('"price", bought=pl.lit(1)', '"price", pl.col("item").alias("other_item"), bought=pl.lit(1)'),
)


@pytest.fixture(params=["files", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    return "" if request.param == "files" else str(request.getfixturevalue("empty_database"))


def fill_table(project: Project, *, renamed: dict[str, str] | None = None, **more: list[Any]) -> FeatureStore:
    """Writes the facts, with other names of columns and more columns, and opens stock Feast."""
    columns = dict(
        zip(["item", "event_timestamp", "clicks", "mean_price"], zip(*FACTS, strict=True), strict=True)
    )
    rows = pa.table(
        {
            (renamed or {}).get(name, name): pa.array(values, INSTANT if name == "event_timestamp" else None)
            for name, values in {**columns, **more}.items()
        }
    )
    lake.open(project.settings).ensure("item_facts", rows.schema).append(rows)
    return FeatureStore(repo_path=str(apply(project).folder))


def read(store: FeatureStore, features: Any, *rows: dict[str, Any]) -> dict[str, list[Any]]:
    store.materialize_incremental(datetime.now(UTC))
    response = store.get_online_features(features=features, entity_rows=list(rows), full_feature_names=True)
    return {name: values for name, values in response.to_dict().items() if "__" in name}


def labels(moments: list[datetime], **columns: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"event_timestamp": moments, **columns})


def values_of(frame: pd.DataFrame, *names: str) -> list[list[Any]]:
    return [[None if pd.isna(value) else value for value in frame[name]] for name in names]


def test_a_view_is_taken_under_two_names_and_keys(small: Callable[..., Project]) -> None:
    project = small(("features=[activity, facts, moment]", TWICE), tables=OTHER_ITEM)
    store = fill_table(project)
    asked = labels([NOW, NOW - 2 * HOUR], item=["a", "b"], other_item=["b", "a"], price=[8.0, 1.0])
    service = store.get_feature_service("bought")
    offline = store.get_historical_features(asked, service, full_feature_names=True).to_df()
    assert values_of(offline, "first__clicks", "other__clicks", "moment__ratio") == [
        [3, 5],
        [5, 1],
        [2.0, None],
    ]
    row = {"item": "a", "other_item": "b", "price": 8.0}
    assert read(store, service, row) == {
        "first__clicks": [3],
        "first__mean_price": [4.0],
        "other__clicks": [5],
        "other__mean_price": [None],
    }  # with full names Feast leaves out features of mode="python"
    plan = compile(project, project.model("bought"))
    assert [key.join_key for key in plan.entities] == ["item", "other_item"]
    tables = lake.open(project.settings)
    with_plan = join(pl.from_pandas(asked), plan, lambda name: tables.table(name).scan())
    assert with_plan["other__clicks"].to_list() == [5, 1]
    state = online.open(project.settings)
    fill(project, tables, plan, state)
    moment = int(datetime.now(UTC).timestamp() * 1e6)
    assert state.lookup(plan, [row], moment).rows == [[3, 4.0, 5, None, 3, 4.0]]
    assert source_columns(plan, "labels", ["other__clicks"]) == {"other__clicks": ["item_facts.clicks"]}


def test_columns_have_other_names_in_a_view(small: Callable[..., Project]) -> None:
    named = {"item": "sku", "event_timestamp": "at", "clicks": "taps"}
    mapping = {"sku": "item", "at": "event_timestamp", "taps": "clicks"}
    project = small(
        ("TableSource(item_facts)", f"TableSource(item_facts, 'at', field_mapping={mapping})"),
        tables=(
            ("class Facts(dy.Schema):\n    item = ", "class Facts(dy.Schema):\n    sku = "),
            ('UTC")\n    clicks = ', 'UTC")\n    taps = '),
            ("    sku = dy.String()\n    event_timestamp", "    sku = dy.String()\n    at"),
        ),
    )
    store = fill_table(project, renamed=named)
    asked = labels([NOW, NOW - 2 * HOUR], item=["a", "a"])
    offline = store.get_historical_features(asked, ["facts:clicks", "facts:mean_price"]).to_df()
    assert values_of(offline, "clicks", "mean_price") == [[3, 1], [4.0, 2.0]]
    assert read(store, ["facts:clicks"], {"item": "a"}, {"item": "b"}) == {"facts__clicks": [3, 5]}
    plan = compile(project, project.model("bought"))
    assert source_columns(plan, "labels", ["facts__clicks"]) == {"facts__clicks": ["item_facts.taps"]}


def test_a_view_without_an_entity_has_one_value_for_all(small: Callable[..., Project]) -> None:
    project = small(
        ('facts = FeatureView(name="facts", entities=[item]', 'facts = FeatureView(name="facts", entities=[]')
    )
    store = fill_table(project)
    asked = labels([NOW, NOW - 2.5 * HOUR, NOW - 4 * HOUR], user_id=[1, 2, 3])
    offline = store.get_historical_features(asked, ["facts:clicks"]).to_df()
    assert values_of(offline, "clicks") == [[3, 1, None]]
    assert read(store, ["facts:clicks"], {"user_id": 1}, {"user_id": 2}) == {"facts__clicks": [3, 3]}
    plan = compile(project, project.model("bought"))
    assert [key.join_key for key in plan.entities] == ["user_id"]
    state = online.open(project.settings)
    facts = plan.as_of[0]
    alone = type(plan)("", (), (facts,), tuple(ref for ref in plan.features if ref.view == "facts"))
    fill(project, lake.open(project.settings), alone, state)
    moment = int(datetime.now(UTC).timestamp() * 1e6)
    assert state.lookup(alone, [{}, {}], moment).rows == [[3, 4.0], [3, 4.0]]


def test_of_two_rows_of_one_time_the_one_that_was_made_last_counts(small: Callable[..., Project]) -> None:
    project = small(
        ("TableSource(item_facts)", "TableSource(item_facts, created_timestamp_column='made')"),
        tables=(("class Facts(dy.Schema):\n", "class Facts(dy.Schema):\n    made = dy.Int64()\n"),),
    )
    store = fill_table(project, made=[1, 2, 1])
    tables = lake.open(project.settings).table("item_facts")
    again = pa.table(
        {
            "item": ["a", "a", "b"],
            "event_timestamp": pa.array([NOW - HOUR, NOW - 3 * HOUR, NOW - 2 * HOUR], INSTANT),
            "clicks": [99, 0, 4],
            "mean_price": [9.0, 0.0, 1.0],
            "made": [1, 5, 2],
        }
    )
    tables.append(again)
    asked = labels([NOW, NOW - 2 * HOUR, NOW], item=["a", "a", "b"])
    offline = store.get_historical_features(asked, ["facts:clicks"]).to_df()
    assert values_of(offline, "clicks") == [[3, 0, 4]]
    assert read(store, ["facts:clicks"], {"item": "a"}, {"item": "b"}) == {"facts__clicks": [3, 4]}


def test_of_two_pushed_rows_of_one_time_the_one_that_was_made_last_counts(
    small: Callable[..., Project],
) -> None:
    project = small(
        ("TableSource(item_facts)", "TableSource(item_facts, created_timestamp_column='made')"),
        tables=(("class Facts(dy.Schema):\n", "class Facts(dy.Schema):\n    made = dy.Int64()\n"),),
    )
    store = fill_table(project, made=[1, 1, 1])
    pushed = {"item": ["a", "a"], "event_timestamp": [NOW - HOUR / 2] * 2, "mean_price": [1.0, 1.0]}
    store.write_to_online_store("facts", pd.DataFrame({**pushed, "clicks": [9, 6], "made": [1, 2]}))
    assert read(store, ["facts:clicks"], {"item": "a"}) == {"facts__clicks": [6]}


def test_rows_are_written_to_a_table_whose_columns_have_other_names(small: Callable[..., Project]) -> None:
    store = fill_table(small())
    rows = pa.table({"item": ["a"], "at": pa.array([NOW - HOUR], INSTANT), "taps": [1]})
    lake.open(settings_of(store.config)).ensure("taps", rows.schema).append(rows)
    source = TableSource.of_table("taps", "at", field_mapping={"at": "event_timestamp", "taps": "clicks"})
    view = FeatureView(
        name="taps",
        entities=[store.get_entity("item")],
        source=source,
        schema=[Field(name="clicks", dtype=Int64)],
    )
    store.apply(view)
    store.write_to_offline_store("taps", pd.DataFrame({"item": ["a"], "at": [NOW], "taps": [2]}))
    asked = labels([NOW - HOUR / 2, NOW], item=["a", "a"])
    assert values_of(store.get_historical_features(asked, ["taps:clicks"]).to_df(), "clicks") == [[1, 2]]
