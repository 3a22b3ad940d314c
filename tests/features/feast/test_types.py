"""Feast's own online and offline reads of every type that a feature can have, on each online store."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureStore

from headrace import lake
from headrace.features.feast import apply
from headrace.projects.project import Project

NOW = datetime.now(UTC).replace(microsecond=0)
THEN = datetime(2038, 1, 19, 3, 14, 8, 123456, tzinfo=UTC)
INSTANT = pa.timestamp("us", "UTC")

# Feast's type → the column's type, a value, the value that Feast returns.
TYPES: dict[str, tuple[pa.DataType, Any, Any]] = {
    "Int32": (pa.int32(), -(2**31), -(2**31)),
    "Int64": (pa.int64(), 2**63 - 1, 2**63 - 1),
    "Float32": (pa.float32(), 0.25, 0.25),
    "Float64": (pa.float64(), 0.1, 0.1),
    "String": (pa.string(), "ä\0", "ä\0"),
    "Bytes": (pa.binary(), b"\xff\0", b"\xff\0"),
    "Bool": (pa.bool_(), False, False),
    "UnixTimestamp": (INSTANT, THEN, THEN.replace(microsecond=0)),  # Feast's answers have whole seconds
}
LISTS = {
    f"Array({name})": (pa.list_(of), [value, value], [answer, answer])
    for name, (of, value, answer) in TYPES.items()
}
ALL = TYPES | LISTS
NAMES = {f"f{index}": name for index, name in enumerate(ALL)}
VIEW = f"""
from feast.types import Array, Bool, Bytes, Float32, Int32, UnixTimestamp
typed = FeatureView(name="typed", entities=[item], source=TableSource(typed_facts, 'event_timestamp'),
    schema=[{", ".join(f'Field(name="{field}", dtype={name})' for field, name in NAMES.items())}])
DAY = """
FUNCTIONS = """
@on_demand_feature_view(sources=[typed], mode="python",
    schema=[{schema}])
def same(inputs):
    return {{{result}}}

asked = """
TABLE = """
@table(reads=scaled)
def typed_facts(rows):
    return rows.select("item", event_timestamp="at")

class Labels"""


@pytest.fixture(params=["files", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    return "" if request.param == "files" else str(request.getfixturevalue("empty_database"))


@pytest.fixture
def store(small: Callable[..., Project]) -> FeatureStore:
    """Stock Feast on the small project with a view of all types and a function that returns its inputs."""
    schema = ", ".join(f'Field(name="same_{field}", dtype={name})' for field, name in NAMES.items())
    result = ", ".join(f'"same_{field}": inputs["{field}"]' for field in NAMES)
    project = small(
        ("import item_facts,", "import typed_facts, item_facts,"),
        ("\nasked = ", FUNCTIONS.format(schema=schema, result=result)),
        ("facts = FeatureView(", VIEW.replace("DAY = ", "facts = FeatureView(")),
        tables=(("class Labels", TABLE.lstrip("\n")),),
    )
    columns: dict[str, Any] = {
        "item": pa.array(["full", "null", "empty", "nan"]),
        "event_timestamp": pa.array([NOW - timedelta(hours=1)] * 4, INSTANT),
    }
    for field, name in NAMES.items():
        of, value, _ = ALL[name]
        empty = [] if name in LISTS else value
        nan = float("nan") if name.startswith("Float") else [float("nan"), None] if "Float" in name else value
        columns[field] = pa.array([value, None, empty, nan], of)
    rows = pa.table(columns)
    lake.open(project.settings).ensure("typed_facts", rows.schema).append(rows)
    return FeatureStore(repo_path=str(apply(project).folder))


def test_every_type_is_read_online_and_offline(store: FeatureStore) -> None:
    store.materialize_incremental(NOW + timedelta(days=1), feature_views=["typed"])
    names = [f"typed:{field}" for field in NAMES] + [f"same:same_{field}" for field in NAMES]
    rows = {item: read(store, names, item) for item in ("full", "null", "empty", "nan", "unknown")}
    for field, name in NAMES.items():
        _, _, answer = ALL[name]
        for column in (field, f"same_{field}"):
            assert rows["full"][column] == answer, (name, column)
            assert type(rows["full"][column]) is type(answer)
            assert rows["null"][column] is None, (name, column)
            assert rows["unknown"][column] is None, (name, column)
            assert rows["empty"][column] == ([] if name in LISTS else answer), (name, column)
        if name in ("Float32", "Float64"):
            assert rows["nan"][field] is None
            assert rows["nan"][f"same_{field}"] is None
        if name in LISTS and "Float" in name:
            assert [str(item) for item in rows["nan"][field]] == ["nan", "nan"]  # Feast's lists have no nulls

    entity_rows = pd.DataFrame({"item": ["full", "null", "empty"], "event_timestamp": [NOW] * 3})
    offline = store.get_historical_features(entity_rows, names).to_arrow().to_pylist()
    for field, name in NAMES.items():
        _, value, _ = ALL[name]
        empty = [] if name in LISTS else value
        for column in (field, f"same_{field}"):
            assert [row[column] for row in offline] == [value, None, empty], (name, column)


def read(store: FeatureStore, names: list[str], item: str) -> dict[str, Any]:
    response = store.get_online_features(names, [{"item": item}]).to_dict()
    return {name: values[0] for name, values in response.items()}
