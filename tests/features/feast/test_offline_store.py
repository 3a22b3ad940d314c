from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureStore

from headrace import lake
from headrace.features.feast import apply, compile  # noqa: A004
from headrace.features.feast.compiler import collect_objects
from headrace.features.feast.views import compile_stored_view
from headrace.kernel.errors import CallError
from headrace.projects.project import Project

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
    return filled(small())


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


def filled(project: Project) -> FeatureStore:
    """Stock Feast on a project, its two tables filled."""
    opened = lake.open(project.settings)
    for name, rows in (("scaled", EVENTS), ("item_facts", FACTS)):
        made = instants(rows)
        opened.ensure(name, made.schema).append(made)
    return FeatureStore(repo_path=str(apply(project).folder))


def clicks(store: FeatureStore, asked: pd.DataFrame) -> list[float]:
    found = store.get_historical_features(entity_df=asked, features=["facts:clicks"]).to_df()
    return [float(value) for value in found["clicks"].fillna(-1)]


def test_times_of_the_labels_may_be_text(store: FeatureStore) -> None:
    asked = labels()
    text = [f"{time:%Y-%m-%dT%H:%M:%S}" for time in asked["event_timestamp"]]
    assert clicks(store, asked.assign(event_timestamp=text)) == [3, 1, 1, -1]
    with pytest.raises(CallError, match="'event_timestamp' of entity_df holds Int64, not times"):
        clicks(store, asked.assign(event_timestamp=range(4)))


def test_a_label_named_like_a_feature_is_refused_by_name(store: FeatureStore) -> None:
    with pytest.raises(CallError, match="entity_df has a column 'clicks'"):
        clicks(store, labels().assign(clicks=0))


def test_lists_are_arrow_lists_as_feasts_own_stores_give_them(small: Callable[..., Project]) -> None:
    seen = 'Aggregation(column="item", function="last(2)", time_window=DAY, name="seen")'
    project = small(
        ('name="spent")],', f'name="spent"), {seen}],'),
        ('"spent", dtype=Float64)]', '"spent", dtype=Float64), Field(name="seen", dtype=Array(String))]'),
        ("import Float64, Int64, String", "import Array, Float64, Int64, String"),
    )
    found = filled(project).get_historical_features(entity_df=labels(), features=["activity:seen"]).to_arrow()
    assert pa.types.is_list(found.schema.field("seen").type)
    assert found["seen"].to_pylist() == [["a", "b"], None, None, None]


@pytest.mark.filterwarnings("ignore:Entity value_type will be mandatory:DeprecationWarning")
def test_an_entity_without_a_type_has_that_of_its_column(small: Callable[..., Project]) -> None:
    project = small((", value_type=ValueType.STRING", ""), (", value_type=ValueType.INT64", ""))
    plan = compile(project, project.model("bought"))
    assert [(one.name, one.dtype) for one in plan.entities] == [("user", "int64"), ("item", "string")]
    store = filled(project)
    assert clicks(store, labels()) == [3, 1, 1, -1]
    store.materialize(NOON, NOON)
    assert store.get_online_features(features=["facts:clicks"], entity_rows=[{"item": "z"}]).to_dict() == {
        "item": ["z"],
        "clicks": [None],
    }


def test_a_stream_feature_view_without_aggregations_is_an_as_of_view(small: Callable[..., Project]) -> None:
    project = small(("facts = FeatureView(", "facts = StreamFeatureView(timestamp_field='event_timestamp', "))
    store = filled(project)
    assert clicks(store, labels()) == [3, 1, 1, -1]
    now = datetime.now(UTC)
    rows = {"item": ["a"], "event_timestamp": [now - HOUR], "clicks": [7], "mean_price": [1.0]}
    store.push("facts_stream", pd.DataFrame(rows))
    store.materialize(NOON, now)
    found = store.get_online_features(features=["facts:clicks"], entity_rows=[{"item": "a"}]).to_dict()
    assert found["clicks"] == [7]


def test_a_key_column_of_32_bits_is_joined(small: Callable[..., Project]) -> None:
    facts = "class Facts(dy.Schema):\n    "
    project = small(
        ('join_keys=["item"], value_type=ValueType.STRING', 'join_keys=["number"], value_type=ValueType.INT32'),
        tables=((f"{facts}item = dy.String()", f"{facts}number = dy.Int32()"),),
    )
    rows = instants({**FACTS, "item": [7, 7, 8]}).rename_columns(["number", *list(FACTS)[1:]])
    rows = rows.set_column(0, "number", rows["number"].cast(pa.int32()))
    lake.open(project.settings).ensure("item_facts", rows.schema).append(rows)
    store = FeatureStore(repo_path=str(apply(project).folder))
    assert clicks(store, labels().assign(number=[7, 7, 7, 8])) == [3, 1, 1, -1]


def test_a_stream_feature_view_is_one_view_in_whatever_order_feast_writes_its_fields(small) -> None:
    project = small(("facts = FeatureView(", "facts = StreamFeatureView(timestamp_field='event_timestamp', "))
    found = collect_objects(project)
    view = found.views["facts"]
    first = compile_stored_view(view, found.entities, "here")
    view.features.reverse()
    assert compile_stored_view(view, found.entities, "here").digest == first.digest
