from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import dataframely as dy
import polars as pl
import pyarrow as pa
import pytest
from feast.data_source import DataSource

from headrace import Struct, TableSource, day, event, lake, table
from headrace.features.feast import apply
from headrace.features.feast.types import dtype_of, feast_type, schema_columns, value_type
from headrace.kernel.errors import ProjectError
from headrace.projects.project import Project


@event(topic="clicks.eu", time="at")
class Click(Struct):
    at: datetime
    user_id: int
    names: list[str]
    price: float | None = None


class Facts(dy.Schema):
    user_id = dy.Int64()
    event_timestamp = dy.Datetime(time_unit="us", time_zone="UTC")
    seen = dy.Int32()
    ok = dy.Bool()
    tags = dy.List(dy.String())


@table(reads=Click, schema=Facts)
def facts(clicks: pl.LazyFrame) -> pl.LazyFrame:
    return clicks


@table(reads=Click, partition_by=day("at"), rowwise=True)
def without_schema(clicks: pl.LazyFrame) -> pl.LazyFrame:
    return clicks


@table(reads=facts)
def timeless(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows


def test_a_source_has_the_facts_of_its_table() -> None:
    of_topic, of_facts, of_undeclared = TableSource(Click), TableSource(facts), TableSource(without_schema)
    assert (of_topic.name, of_topic.timestamp_field, of_topic.topic) == ("clicks_eu", "at", "clicks.eu")
    assert of_topic.columns == {
        "at": "timestamp",
        "user_id": "int64",
        "names": "list[string]",
        "price": "float64",
    }
    assert (of_facts.timestamp_field, of_facts.topic, of_facts.rowwise) == ("event_timestamp", None, False)
    assert of_facts.columns == {
        "user_id": "int64",
        "event_timestamp": "timestamp",
        "seen": "int64",
        "ok": "bool",
        "tags": "list[string]",
    }
    assert (of_undeclared.timestamp_field, of_undeclared.topic, of_undeclared.rowwise) == (
        "at",
        "clicks.eu",
        True,
    )
    assert of_undeclared.columns is None


@pytest.mark.parametrize(
    "source",
    [
        TableSource(Click),
        TableSource(facts, field_mapping={"seen": "x"}, created_timestamp_column="seen"),
        TableSource(without_schema),
    ],
)
def test_a_source_survives_feasts_registry(source: TableSource) -> None:
    again = DataSource.from_proto(source.to_proto())
    assert type(again) is TableSource
    assert again == source
    assert hash(again) == hash(source)
    assert again.to_proto().custom_options == source.to_proto().custom_options


def test_sources_of_one_table_are_equal_and_others_are_not() -> None:
    assert TableSource(facts) == TableSource(facts)
    assert len({TableSource(facts), TableSource(facts)}) == 1
    assert TableSource(facts) != TableSource(without_schema)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: TableSource("facts"), "the argument is not a table"),
        (lambda: TableSource(timeless), "the time column of the table is not known"),
        (lambda: TableSource(facts, timestamp_field="then"), "'then' is not a column of facts"),
        (lambda: TableSource(facts, date_partition_column="seen"), "does not accept date_partition_column"),
        (lambda: TableSource(facts, field_mapping={"scene": "x"}), "field_mapping='scene' is not a column"),
        (lambda: TableSource(facts, field_mapping={"seen": "x", "user_id": "x"}), "two columns one name"),
        (lambda: TableSource(facts, created_timestamp_column="made"), "created_timestamp_column='made' is not"),
        (lambda: TableSource(facts, delay="soon"), "is not a valid duration"),
        (lambda: TableSource(facts, delay=timedelta(-1)), r"delay=.* is not valid"),
    ],
)
def test_a_wrong_source_is_refused(make: Callable[[], TableSource], what: str) -> None:
    with pytest.raises(ProjectError, match=what) as raised:
        make()
    assert "test_source.py:" in (raised.value.where or "")


def test_undeclared_columns_come_from_the_lake(small: Callable[..., Project]) -> None:
    from feast import FeatureStore

    project = small()
    store = FeatureStore(repo_path=str(apply(project).folder))
    rows = pa.table({"at": pa.array([datetime(2026, 1, 1, tzinfo=UTC)]), "price": [1.5], "user_id": [1]})
    lake.open(project.settings).ensure("without_schema", rows.schema).append(rows)
    columns = dict(TableSource(without_schema).get_table_column_names_and_types(store.config))
    assert columns == {"at": "timestamp", "price": "float64", "user_id": "int64"}


def test_every_declared_type_has_a_feast_type() -> None:
    for declared in (facts, Click.__contract__):  # type: ignore[attr-defined]
        for name in (schema_columns(declared) or {}).values():
            assert dtype_of(feast_type(name)) == name
            assert value_type(name) == feast_type(name).to_value_type()
