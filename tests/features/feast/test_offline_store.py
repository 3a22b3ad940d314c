from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureService, FeatureStore, FeatureView, Field
from feast.data_source import PushMode, PushSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import FeatureServiceLoggingSource, LoggingConfig
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.types import Float64, Int64

from headrace import LoggingTable, SavedDatasetTable, TableSource, lake
from headrace.features.feast import apply, compile  # noqa: A004
from headrace.features.feast.compiler import collect_objects
from headrace.features.feast.frames import to_pandas
from headrace.features.feast.repository import settings_of
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
    table = pa.table(rows)
    for place, name in enumerate(table.column_names):
        if pa.types.is_timestamp(table.schema.field(name).type):
            table = table.set_column(place, name, table[name].cast(pa.timestamp("us", "UTC")))
    return table


@pytest.fixture
def store(small: Callable[..., Project]) -> FeatureStore:
    """Stock Feast on the small project, its two tables filled."""
    return fill_store(small())


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
    features = store.get_historical_features(
        entity_df=labels(), features=store.get_feature_service("bought")
    ).to_df()
    assert list(features.columns) == [*labels().columns, "spent", "clicks", "mean_price", "ratio"]
    assert list(features["note"]) == ["w", "x", "y", "z"]
    # An event at the moment itself is not seen; the day before the last moment holds none.
    assert features["spent"].fillna(-1).tolist() == [3.0, -1, -1, -1]
    # A fact at the moment itself is seen; one is older than its ttl of a day at the last moment.
    assert features["clicks"].fillna(-1).tolist() == [3, 1, 1, -1]
    assert features["ratio"].fillna(-1).tolist() == [2.0, 1.5, 0.5, -1]


def test_full_names_and_other_time_columns(store: FeatureStore) -> None:
    asked = labels().rename(columns={"event_timestamp": "moment"})
    job = store.get_historical_features(
        entity_df=asked, features=["facts:clicks", "activity:spent"], full_feature_names=True
    )
    features = job.to_arrow()
    assert features.column_names == [*asked.columns, "facts__clicks", "activity__spent"]
    assert features["facts__clicks"].to_pylist() == [3, 1, 1, None]
    assert features.schema.field("facts__clicks").type == pa.int64()
    assert job.full_feature_names
    assert job.metadata is not None
    assert job.metadata.features == ["facts:clicks", "activity:spent"]


def test_an_on_demand_feature_alone_includes_the_views_it_reads(store: FeatureStore) -> None:
    features = store.get_historical_features(entity_df=labels(), features=["moment:ratio"]).to_df()
    assert features["ratio"].fillna(-1).tolist() == [2.0, 1.5, 0.5, -1]


def test_sql_over_the_lake_selects_the_rows(store: FeatureStore) -> None:
    columns = "item, at + interval '7 hours' as event_timestamp, price"
    query = f"select {columns} from scaled where user_id = 1 order by at"
    features = store.get_historical_features(query, ["facts:clicks", "facts:mean_price"]).to_df()
    assert list(features.columns) == ["item", "event_timestamp", "price", "clicks", "mean_price"]
    assert features["clicks"].fillna(-1).tolist() == [3, 5, -1]  # the last is 47 hours after the fact
    again = f"/* all */ ({query}) -- of user 1"
    assert (
        store.get_historical_features(again, ["facts:clicks"])
        .to_df()
        .equals(store.get_historical_features(query, ["facts:clicks"]).to_df())
    )


def test_sql_that_is_not_one_query_of_the_lake_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("item,event_timestamp\na,2026-03-01T00:00:00Z\n")
    selected = "select item, at as event_timestamp from scaled"
    readers = ("csv", "ipc", "json", "ndjson", "parquet", "avro", "delta", "database")
    wrong = {
        "cannot be run": [
            "select nothing from scaled",
            "select item from nowhere",
            f"{selected}; delete from scaled",
            "with x as (insert into scaled values (1)) select * from x",
            "with x as (delete from scaled) select * from x",
            f"select * from '{secret}'",
            *(f"select * from scan_{kind}('{secret}')" for kind in readers),
            *(f"select * from read_{kind}('{secret}')" for kind in readers[5:]),
        ],
        "is not a query": [
            "",
            "delete from scaled",
            "(delete from scaled)",
            "/* select */ delete from scaled where user_id = 1",
            "truncate table scaled",
            "drop table scaled; select 1",
            f"create table other as {selected}",
            f"explain {selected}",
            "show tables",
            "insert into scaled values (1)",
            f"copy scaled to '{tmp_path / 'out.csv'}'",
            f"attach '{secret}' as x",
        ],
        "reads files": [
            *(f"select * from read_{kind}('{secret}')" for kind in readers[:5]),
            f"select * from READ_CSV /* */ ('{secret}')",
            f"select * from \"read_csv\"/* /* */ */('{secret}')",
            f"{selected} where item in (select item from read_csv('{secret}'))",
            f"select $$'$$ as a, * from read_csv('{secret}') -- '",
        ],
    }
    for why, queries in wrong.items():
        for query in queries:
            with pytest.raises(CallError, match=f"for entity_df .*{why}") as refusal:
                store.get_historical_features(query, ["facts:clicks"])
            assert "scaled" in str(refusal.value.remedy), query
    assert lake.open(settings_of(store.config)).table("scaled").scan().collect().height == 4
    assert [file.name for file in tmp_path.glob("*.csv")] == ["secret.csv"]


def test_dates_alone_select_the_views_own_keys_and_times(store: FeatureStore) -> None:
    dates = {"start_date": NOON, "end_date": NOON + 6 * HOUR}
    features = store.get_historical_features(None, ["facts:clicks"], **dates).to_df()
    rows = features[["item", "event_timestamp", "clicks"]].to_records(index=False).tolist()
    assert [(item, clicks) for item, _, clicks in rows] == [("a", 1), ("a", 3), ("b", 5)]
    with pytest.raises(CallError, match="views of one entity"):
        store.get_historical_features(None, ["facts:clicks", "activity:spent"], **dates)


def test_a_saved_dataset_is_a_table_of_the_lake(store: FeatureStore) -> None:
    job = store.get_historical_features(labels()[["event_timestamp", "item"]], ["facts:clicks"])
    with pytest.warns(RuntimeWarning, match="experimental"):
        store.create_saved_dataset(job, "mine", SavedDatasetTable("mine"))
    with pytest.warns(RuntimeWarning, match="experimental"):
        again = store.get_saved_dataset("mine")
    assert again.storage.table == "headrace_feast_mine"
    rows = again.to_df().sort_values(["event_timestamp"])
    assert rows["clicks"].fillna(-1).tolist() == [1, 1, 3, -1]
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(SavedDatasetTable("mine"))
    job.persist(SavedDatasetTable("mine"), allow_overwrite=True)
    assert lake.open(settings_of(store.config)).table("headrace_feast_mine").scan().collect().height == 4
    with pytest.raises(CallError, match="cannot be saved to a SavedDatasetFileStorage"):
        job.persist(SavedDatasetFileStorage(path="mine.parquet"))


def test_a_saved_dataset_is_read_with_all_its_columns(store: FeatureStore) -> None:
    asked = labels().assign(label=range(len(labels())))
    job = store.get_historical_features(asked, ["activity:spent", "facts:clicks"])
    with pytest.warns(RuntimeWarning, match="experimental"):
        saved = store.create_saved_dataset(job, "whole", SavedDatasetTable("whole"))
    expected = job.to_df()
    rows = saved.to_df()
    assert {"user_id", "item", "label", "spent"} <= set(rows.columns)
    pd.testing.assert_frame_equal(rows.sort_values("label", ignore_index=True), expected, check_like=True)
    other = store.get_historical_features(asked.rename(columns={"event_timestamp": "ts"}), ["facts:clicks"])
    with pytest.raises(CallError, match="no column event_timestamp"):
        other.persist(SavedDatasetTable("other"))


@pytest.mark.parametrize("name", ["", "a b", "a/../../../b", "..", "é", "a" * 101])
def test_a_name_that_is_no_folders_name_is_refused(name: str) -> None:
    for kind in (SavedDatasetTable, LoggingTable):
        with pytest.raises(CallError, match="not a valid name"):
            kind(name)


def test_an_overwritten_dataset_is_read_whole(store: FeatureStore) -> None:
    """Feast's registry keeps the times of the dataset that was there before."""
    early, late = labels().head(1), labels().assign(event_timestamp=NOON + 60 * HOUR)
    for asked in (early, late):
        job = store.get_historical_features(asked[["event_timestamp", "item"]], ["facts:clicks"])
        with pytest.warns(RuntimeWarning, match="experimental"):
            store.create_saved_dataset(job, "again", SavedDatasetTable("again"), allow_overwrite=True)
    with pytest.warns(RuntimeWarning, match="experimental"):
        assert len(store.get_saved_dataset("again").to_df()) == len(late)


def test_rows_are_written_to_a_table_that_no_function_makes(store: FeatureStore) -> None:
    rows = instants(FACTS)
    lake.open(settings_of(store.config)).ensure("other_facts", rows.schema).append(rows)
    source = TableSource.of_table("other_facts", "event_timestamp")
    view = FeatureView(
        name="others",
        entities=[store.get_entity("item")],
        source=PushSource(name="others_stream", batch_source=source),
        schema=[Field(name="clicks", dtype=Int64), Field(name="mean_price", dtype=Float64)],
    )
    store.apply(view)
    pushed = pd.DataFrame(
        {"item": ["a"], "event_timestamp": [NOON + 7 * HOUR], "clicks": [8], "mean_price": [None]}
    )
    store.push("others_stream", pushed, to=PushMode.OFFLINE)
    asked = labels()[["event_timestamp", "item"]]
    assert store.get_historical_features(asked, ["others:clicks"]).to_df()["clicks"].tolist() == [8, 1, 1, 5]
    with pytest.raises(ValueError, match="do not match the batch source columns"):
        store.write_to_offline_store("others", pushed.drop(columns="clicks"), reorder_columns=False)


def test_served_features_are_logged_to_a_table(store: FeatureStore) -> None:
    destination = LoggingConfig(destination=LoggingTable("served"))
    view = store.get_feature_view("facts")
    store.registry.apply_feature_service(
        FeatureService(name="logged", features=[view], logging_config=destination), store.project
    )
    service = store.get_feature_service("logged")
    schema = FeatureServiceLoggingSource(service, store.project).get_schema(store.registry)
    row = {
        "item": "a",
        "facts__clicks": 3,
        "__log_timestamp": NOON,
        "__log_date": NOON.date(),
        "__request_id": "r1",
    }
    store.write_logged_features(pa.Table.from_pylist([row], schema=schema), service)
    dates = NOON - HOUR, NOON + HOUR
    logs = store._get_provider().retrieve_feature_service_logs(service, *dates, store.config, store.registry)
    assert logs.to_df()["facts__clicks"].tolist() == [3]


def test_pulls_read_the_rows_between_two_times(store: FeatureStore) -> None:
    provider = store._get_provider()
    source = store.get_data_source("item_facts")
    columns = {
        "join_key_columns": ["item"],
        "feature_name_columns": ["clicks"],
        "timestamp_field": "event_timestamp",
        "created_timestamp_column": None,
    }

    def pull_rows(pull: Callable[..., object], start: datetime, end: datetime) -> list[tuple[object, ...]]:
        job = pull(store.config, source, start_date=start, end_date=end, **columns)
        rows = job.to_arrow().select(["item", "clicks"]).to_pylist()  # type: ignore[attr-defined]
        return sorted(tuple(row.values()) for row in rows)

    latest = provider.offline_store.pull_latest_from_table_or_query
    every = provider.offline_store.pull_all_from_table_or_query
    assert pull_rows(latest, NOON, NOON + 6 * HOUR) == [("a", 3), ("b", 5)]
    assert pull_rows(latest, NOON, NOON + HOUR) == [("a", 1)]
    assert pull_rows(every, NOON, NOON + 6 * HOUR) == [("a", 1), ("a", 3), ("b", 5)]
    assert pull_rows(every, NOON.replace(tzinfo=None), NOON) == [("a", 1)]


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
    table = instants(FACTS)
    lake.open(project.settings).ensure("item_facts", table.schema).append(table)
    store = FeatureStore(repo_path=str(apply(project).folder))
    features = store.get_historical_features(entity_df=labels(), features=["moment:ratio"]).to_df()
    assert features["ratio"].fillna(-1).tolist() == [2.0, 1.5, 0.5, -1]


def fill_store(project: Project) -> FeatureStore:
    """Stock Feast on a project, its two tables filled."""
    opened = lake.open(project.settings)
    for name, rows in (("scaled", EVENTS), ("item_facts", FACTS)):
        table = instants(rows)
        opened.ensure(name, table.schema).append(table)
    return FeatureStore(repo_path=str(apply(project).folder))


def clicks(store: FeatureStore, asked: pd.DataFrame) -> list[float]:
    features = store.get_historical_features(entity_df=asked, features=["facts:clicks"]).to_df()
    return [float(value) for value in features["clicks"].fillna(-1)]


def test_a_frame_has_each_digit_of_whole_numbers_beside_nulls(store: FeatureStore) -> None:
    large, key = 2**53 + 1, -(2**63)
    rows = instants({**FACTS, "clicks": [1, large, None]})
    lake.open(settings_of(store.config)).table("item_facts").overwrite(rows)
    lists = pa.chunked_array([[[large, None], None, [], [1]]])
    asked = labels().assign(user_id=pd.array([key, None, 2, large], "Int64"))
    job = store.get_historical_features(asked, ["facts:clicks", "activity:spent"])
    features = job.to_df()
    assert [str(value) for value in features["user_id"]] == [str(key), "<NA>", "2", str(large)]
    assert [str(value) for value in features["clicks"]] == [str(large), "1", "1", "<NA>"]
    assert features["spent"].dtype == "float64"
    small_numbers = pa.table({"n": [1, None], "l": [[2**53], None]})
    assert to_pandas(small_numbers).dtypes.tolist() == small_numbers.to_pandas().dtypes.tolist()
    assert to_pandas(pa.table({"l": lists}))["l"][0].tolist() == [large, None]


def test_times_of_the_labels_may_be_text(store: FeatureStore) -> None:
    asked = labels()
    text = [f"{time:%Y-%m-%dT%H:%M:%S}" for time in asked["event_timestamp"]]
    assert clicks(store, asked.assign(event_timestamp=text)) == [3, 1, 1, -1]
    with pytest.raises(CallError, match="'event_timestamp' of entity_df holds Int64, not times"):
        clicks(store, asked.assign(event_timestamp=range(4)))


def test_a_label_named_like_a_feature_is_refused_by_name(store: FeatureStore) -> None:
    with pytest.raises(CallError, match="entity_df has a column 'clicks'"):
        clicks(store, labels().assign(clicks=0))
    with pytest.raises(CallError, match="entity_df has a column 'clicks'"):
        clicks(store, labels()[["event_timestamp", "item"]].rename(columns={"event_timestamp": "clicks"}))


def test_no_rows_have_no_features_whatever_their_types(store: FeatureStore) -> None:
    names = ["facts:clicks", "activity:spent"]
    for asked in (labels().head(0), pd.DataFrame({"event_timestamp": [], "user_id": [], "item": []})):
        rows = store.get_historical_features(asked, names).to_arrow()
        assert rows.num_rows == 0
        assert rows.column_names[-2:] == ["clicks", "spent"]
        assert rows.schema.field("event_timestamp").type == pa.timestamp("us", "UTC")


def test_lists_are_arrow_lists(small: Callable[..., Project]) -> None:
    seen = 'Aggregation(column="item", function="last(2)", time_window=DAY, name="seen")'
    project = small(
        ('name="spent")],', f'name="spent"), {seen}],'),
        ('"spent", dtype=Float64)]', '"spent", dtype=Float64), Field(name="seen", dtype=Array(String))]'),
        ("import Float64, Int64, String", "import Array, Float64, Int64, String"),
    )
    features = (
        fill_store(project).get_historical_features(entity_df=labels(), features=["activity:seen"]).to_arrow()
    )
    assert pa.types.is_list(features.schema.field("seen").type)
    assert features["seen"].to_pylist() == [["a", "b"], None, None, None]


@pytest.mark.filterwarnings("ignore:Entity value_type will be mandatory:DeprecationWarning")
def test_an_entity_without_a_type_has_its_columns_type(small: Callable[..., Project]) -> None:
    project = small((", value_type=ValueType.STRING", ""), (", value_type=ValueType.INT64", ""))
    plan = compile(project, project.model("bought"))
    assert [(entity.name, entity.dtype) for entity in plan.entities] == [("user", "int64"), ("item", "string")]
    store = fill_store(project)
    assert clicks(store, labels()) == [3, 1, 1, -1]
    store.materialize(NOON, NOON)
    assert store.get_online_features(features=["facts:clicks"], entity_rows=[{"item": "z"}]).to_dict() == {
        "item": ["z"],
        "clicks": [None],
    }


def test_a_stream_feature_view_without_aggregations_is_an_as_of_view(small: Callable[..., Project]) -> None:
    project = small(("facts = FeatureView(", "facts = StreamFeatureView(timestamp_field='event_timestamp', "))
    store = fill_store(project)
    assert clicks(store, labels()) == [3, 1, 1, -1]
    now = datetime.now(UTC)
    rows = {"item": ["a"], "event_timestamp": [now - HOUR], "clicks": [7], "mean_price": [1.0]}
    store.push("facts_stream", pd.DataFrame(rows))
    store.materialize(NOON, now)
    features = store.get_online_features(features=["facts:clicks"], entity_rows=[{"item": "a"}]).to_dict()
    assert features["clicks"] == [7]


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


def test_the_order_of_feasts_fields_does_not_change_a_view(small) -> None:
    project = small(("facts = FeatureView(", "facts = StreamFeatureView(timestamp_field='event_timestamp', "))
    objects = collect_objects(project)
    view = objects.views["facts"]
    first = compile_stored_view(view, objects.entities, "here")
    view.features.reverse()
    assert compile_stored_view(view, objects.entities, "here").digest == first.digest
