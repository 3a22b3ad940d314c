from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureStore

from headrace import lake
from headrace.declare.project import Project
from headrace.features.feast import apply
from headrace.kernel.errors import CallError

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)

EVENTS = {
    "at": [NOON, NOON + HOUR, NOON + 2 * HOUR, NOON + 40 * HOUR],
    "user_id": [1, 1, 2, 1],
    "item": ["a", "b", "a", "a"],
    "price": [1.0, 2.0, 4.0, None],
}
FACTS = {
    "item": ["a", "a", "b"],
    "event_timestamp": [NOON, NOON + 6 * HOUR, NOON + 6 * HOUR],
    "clicks": [1, 3, 5],
    "mean_price": [2.0, 4.0, None],
}


def instants(rows: dict[str, list[object]]) -> pa.Table:
    made = pa.table(rows)
    for place, name in enumerate(made.column_names):
        if pa.types.is_timestamp(made.schema.field(name).type):
            made = made.set_column(place, name, made[name].cast(pa.timestamp("us", "UTC")))
    return made


@pytest.fixture
def store(small: Callable[..., Project]) -> FeatureStore:
    """Stock Feast on the small project, its two tables filled."""
    project = small()
    opened = lake.open(project.settings)
    for name, rows in (("scaled", EVENTS), ("item_facts", FACTS)):
        made = instants(rows)
        opened.ensure(name, made.schema).append(made)
    return FeatureStore(repo_path=str(apply(project).folder))


def labels() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "event_timestamp": [NOON + 7 * HOUR, NOON, NOON + 2 * HOUR, NOON + 40 * HOUR],
            "user_id": [1, 1, 2, 1],
            "item": ["a", "a", "a", "b"],
            "price": [8.0, 3.0, 1.0, 1.0],
            "note": ["w", "x", "y", "z"],
        }
    )


def test_historical_features_of_a_service(store: FeatureStore) -> None:
    found = store.get_historical_features(
        entity_df=labels(), features=store.get_feature_service("bought")
    ).to_df()
    assert list(found.columns) == [*labels().columns, "spent", "clicks", "mean_price", "ratio"]
    assert list(found["note"]) == ["w", "x", "y", "z"]
    # An event at the moment itself is not seen; the day before the last moment holds none.
    assert found["spent"].fillna(-1).tolist() == [3.0, -1, -1, -1]
    # A fact at the moment itself is seen; one is older than its ttl of a day at the last moment.
    assert found["clicks"].fillna(-1).tolist() == [3, 1, 1, -1]
    assert found["ratio"].fillna(-1).tolist() == [2.0, 1.5, 0.5, -1]


def test_full_names_and_other_time_columns(store: FeatureStore) -> None:
    asked = labels().rename(columns={"event_timestamp": "moment"})
    job = store.get_historical_features(
        entity_df=asked, features=["facts:clicks", "activity:spent"], full_feature_names=True
    )
    found = job.to_arrow()
    assert found.column_names == [*asked.columns, "facts__clicks", "activity__spent"]
    assert found["facts__clicks"].to_pylist() == [3, 1, 1, None]
    assert found.schema.field("facts__clicks").type == pa.int64()
    assert job.full_feature_names
    assert job.metadata is not None
    assert job.metadata.features == ["facts:clicks", "activity:spent"]


def test_an_on_demand_feature_alone_brings_what_it_reads(store: FeatureStore) -> None:
    found = store.get_historical_features(entity_df=labels(), features=["moment:ratio"]).to_df()
    assert found["ratio"].fillna(-1).tolist() == [2.0, 1.5, 0.5, -1]


def test_a_query_is_refused(store: FeatureStore) -> None:
    with pytest.raises(CallError, match="needs a DataFrame"):
        store.get_historical_features(entity_df="select 1", features=["facts:clicks"])


def test_pulls_read_the_rows_between_two_times(store: FeatureStore) -> None:
    provider = store._get_provider()
    source = store.get_data_source("item_facts")
    columns = {
        "join_key_columns": ["item"],
        "feature_name_columns": ["clicks"],
        "timestamp_field": "event_timestamp",
        "created_timestamp_column": None,
    }

    def pulled(pull: Callable[..., object], start: datetime, end: datetime) -> list[tuple[object, ...]]:
        job = pull(store.config, source, start_date=start, end_date=end, **columns)
        rows = job.to_arrow().select(["item", "clicks"]).to_pylist()  # type: ignore[attr-defined]
        return sorted(tuple(row.values()) for row in rows)

    latest = provider.offline_store.pull_latest_from_table_or_query
    every = provider.offline_store.pull_all_from_table_or_query
    assert pulled(latest, NOON, NOON + 6 * HOUR) == [("a", 3), ("b", 5)]
    assert pulled(latest, NOON, NOON + HOUR) == [("a", 1)]
    assert pulled(every, NOON, NOON + 6 * HOUR) == [("a", 1), ("a", 3), ("b", 5)]
    assert pulled(every, NOON.replace(tzinfo=None), NOON) == [("a", 1)]


BATCH = """
    pairs = zip(inputs["price"], inputs["facts__mean_price"])
    return {"ratio": [None if not mean else TIMES * price / mean for price, mean in pairs]}
"""
FRAME = """
    return (TIMES * inputs["price"] / inputs["mean_price"]).to_frame("ratio")
"""


@pytest.mark.parametrize(("mode", "body"), [('mode="python"', BATCH), ('mode="pandas"', FRAME)])
def test_every_mode_of_an_on_demand_view(small: Callable[..., Project], mode: str, body: str) -> None:
    row = (
        'return {"ratio": None if not inputs["mean_price"] else TIMES * inputs["price"] / inputs["mean_price"]}'
    )
    project = small(('mode="python", singleton=True', mode), (row, body))
    made = instants(FACTS)
    lake.open(project.settings).ensure("item_facts", made.schema).append(made)
    store = FeatureStore(repo_path=str(apply(project).folder))
    found = store.get_historical_features(entity_df=labels(), features=["moment:ratio"]).to_df()
    assert found["ratio"].fillna(-1).tolist() == [2.0, 1.5, 0.5, -1]
