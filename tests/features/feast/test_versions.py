"""Versions of feature views through Feast's doors: `view@v0` is the definition that Feast recorded."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureService, FeatureStore
from feast.errors import FeatureNameCollisionError, FeatureViewVersionNotFound

from headrace import lake
from headrace.features import online
from headrace.features.applied.registry import is_registry_as_applied
from headrace.features.feast import apply, compile  # noqa: A004
from headrace.kernel.errors import CallError, ProjectError, Unavailable
from headrace.kernel.position import LogPosition
from headrace.projects.project import Project

HOUR = timedelta(hours=1)
INSTANT = pa.timestamp("us", "UTC")
NOW = datetime.now(UTC).replace(microsecond=0)
# The second version forgets a row after two hours, and has another feature.
OTHER = (
    ("ttl=DAY", "ttl=DAY / 12"),
    ("TableSource(item_facts)", 'TableSource(item_facts, field_mapping={"mean_price": "seen"})'),
    ('Field(name="mean_price"', 'Field(name="seen"'),
    ('None if not inputs["mean_price"]', 'None if not inputs["seen"]'),
    ('/ inputs["mean_price"]', '/ inputs["seen"]'),
)
GREATEST = (('function="sum"', 'function="max"'),)
FEATURES = ["facts@v0:clicks", "facts@v0:mean_price", "facts@v1:clicks", "facts@v1:seen"]


@pytest.fixture(params=["files", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    return "" if request.param == "files" else str(request.getfixturevalue("empty_database"))


def append(project: Project, table: str, rows: dict[str, Any]) -> None:
    columns = {n: pa.array(v, INSTANT) if n in ("at", "event_timestamp") else v for n, v in rows.items()}
    data = pa.table(columns)
    lake.open(project.settings).ensure(table, data.schema).append(data)


def facts_of(project: Project) -> None:
    append(
        project,
        "item_facts",
        {
            "item": ["a", "a", "b"],
            "event_timestamp": [NOW - 3 * HOUR, NOW - HOUR, NOW - 5 * HOUR],
            "clicks": [1, 3, 5],
            "mean_price": [2.5, 4.5, 6.5],
        },
    )


def open_store(project: Project) -> FeatureStore:
    return FeatureStore(repo_path=str(apply(project).folder))


def versions_of(store: FeatureStore) -> dict[str, list[str]]:
    names = ("facts", "activity", "moment")
    return {name: [version["version"] for version in store.list_feature_view_versions(name)] for name in names}


def read(
    store: FeatureStore, features: list[str] | FeatureService, full: bool = True, **keys: list[Any]
) -> dict[str, list[Any]]:
    values = store.get_online_features(features, keys, full_feature_names=full).to_dict()
    return {name: column for name, column in values.items() if name not in keys}


def train(
    store: FeatureStore, features: list[str] | FeatureService, full: bool = True, **labels: list[Any]
) -> dict[str, list[Any]]:
    job = store.get_historical_features(pd.DataFrame(labels), features, full_feature_names=full)
    return {name: column for name, column in job.to_arrow().to_pydict().items() if name not in labels}


def test_apply_records_a_version_only_where_a_view_has_changed(small: Callable[..., Project]) -> None:
    store = open_store(small())
    first = {"facts": ["v0"], "activity": ["v0"], "moment": ["v0"]}
    assert versions_of(store) == first
    store = open_store(
        small(("ttl=DAY", "ttl=2 * DAY"), ('join_keys=["item"]', 'join_keys=["item"], tags={"a": "b"}'))
    )
    assert store.get_feature_view("facts").ttl == timedelta(days=2)
    store = open_store(small(tables=(("SCALE = 2.0", "SCALE = 3.0"),)))
    assert versions_of(store) == first
    store = open_store(small(*GREATEST))
    assert versions_of(store) == first | {"activity": ["v0", "v1"]}
    project = small(*OTHER, *GREATEST)
    store = open_store(project)
    assert versions_of(store) == {"facts": ["v0", "v1"], "activity": ["v0", "v1"], "moment": ["v0", "v1"]}
    assert not apply(project).changed


def test_a_registry_file_gets_a_new_hop_of_tiles(small: Callable[..., Project]) -> None:
    open_store(small())
    store = open_store(small(("timestamp_field=", "tiling_hop_size=2 * DAY, timestamp_field=")))
    assert store.get_stream_feature_view("activity").tiling_hop_size == timedelta(days=2)


def test_two_versions_of_an_as_of_view(small: Callable[..., Project]) -> None:
    project = small()
    facts_of(project)
    store = open_store(project)
    store.materialize(NOW - 24 * HOUR, datetime.now(UTC))
    project = small(*OTHER)
    store = open_store(project)
    expected = {
        "facts@v0__clicks": [3, 5],
        "facts@v0__mean_price": [4.5, 6.5],
        "facts@v1__clicks": [3, None],
        "facts@v1__seen": [4.5, None],
    }
    keys = {"item": ["a", "b"]}
    assert train(store, FEATURES, **keys, event_timestamp=[NOW, NOW]) == expected
    past = train(store, ["facts@v0:clicks", "facts:seen"], **keys, event_timestamp=[NOW - 2.5 * HOUR] * 2)
    assert past == {"facts@v0__clicks": [1, 5], "facts__seen": [2.5, None]}
    assert train(store, ["facts@v0:clicks"], full=False, **keys, event_timestamp=[NOW, NOW]) == {
        "clicks": [3, 5]
    }
    latest = train(store, ["facts@latest:seen"], **keys, event_timestamp=[NOW, NOW])
    assert latest == {"facts__seen": [4.5, None]}
    # The first version's state is that of the materialization before the change.
    assert read(store, FEATURES[:2], **keys) == {name: expected[name] for name in list(expected)[:2]}
    with pytest.raises(Unavailable, match="'facts@v1' holds no values online") as refused:
        read(store, FEATURES, **keys)
    assert "feature_views=['facts'], version='v1'" in str(refused.value.remedy)
    store.materialize(NOW - 24 * HOUR, datetime.now(UTC), feature_views=["facts"], version="v1")
    assert read(store, FEATURES, **keys) == expected
    assert read(store, ["facts:clicks"], full=False, **keys) == {"clicks": [3, None]}
    row = {"item": ["b"], "event_timestamp": [NOW - HOUR / 2], "clicks": [8], "seen": [7.5]}
    store.push("facts_stream", pd.DataFrame(row))
    pushed = {"facts@v1__clicks": [3, 8], "facts@v1__seen": [4.5, 7.5]}
    assert read(store, FEATURES, **keys) == expected | pushed
    store.apply(FeatureService(name="first", features=["facts@v0"]))
    first = store.get_feature_service("first")
    assert read(store, first, **keys) == {name: expected[name] for name in list(expected)[:2]}
    assert train(store, first, **keys, event_timestamp=[NOW, NOW]) == read(store, first, **keys)
    with pytest.raises(FeatureNameCollisionError):
        read(store, FEATURES, full=False, **keys)
    for ask in (
        lambda: read(store, ["facts@v7:clicks"], **keys),
        lambda: train(store, ["facts@v7:clicks"], **keys, event_timestamp=[NOW, NOW]),
    ):
        with pytest.raises(FeatureViewVersionNotFound, match="v7"):
            ask()


def test_the_past_of_a_version_is_materialized(small: Callable[..., Project]) -> None:
    facts_of(small())
    open_store(small())
    store = open_store(small(*OTHER))
    span = NOW - 24 * HOUR, NOW - 2 * HOUR
    store.materialize(*span, feature_views=["facts"], version="v0")
    assert read(store, FEATURES[:2], item=["a", "b"]) == {
        "facts@v0__clicks": [1, 5],
        "facts@v0__mean_price": [2.5, 6.5],
    }


def test_two_versions_of_a_windowed_view(small: Callable[..., Project]) -> None:
    rows = {"user_id": [1, 1, 2], "at": [NOW - 2 * HOUR, NOW - HOUR, NOW - HOUR], "price": [1.5, 2.0, 9.0]}
    project = small()
    append(project, "scaled", rows)
    store, state = open_store(project), online.open(project.settings)
    plan = compile(project, project.model("bought"))
    state.prepare(plan)
    events = pa.table(rows | {"at": pa.array(rows["at"], INSTANT)})
    state.fill(plan.windowed[0], events, LogPosition("clicks", "id", {0: 3}))
    store = open_store(small(*GREATEST))
    features = ["activity@v0:spent", "activity@v1:spent", "activity:spent"]
    trained = train(store, features, user_id=[1, 2], event_timestamp=[NOW, NOW])
    assert trained == {
        "activity@v0__spent": [3.5, 9.0],
        "activity@v1__spent": [2.0, 9.0],
        "activity__spent": [2.0, 9.0],
    }
    assert read(store, features[:1], user_id=[1, 2]) == {"activity@v0__spent": [3.5, 9.0]}
    store.materialize(
        NOW - HOUR, NOW, feature_views=["activity"], version="v1"
    )  # skipped, as every windowed view
    with pytest.raises(Unavailable, match="'activity@v1' holds no values online"):
        read(store, features[1:2], user_id=[1])
    # Ingest does not follow the state of a function with other code.
    store = open_store(small(*GREATEST, tables=(("SCALE = 2.0", "SCALE = 3.0"),)))
    with pytest.raises(CallError, match="'activity@v0' cannot be read online"):
        read(store, features[:1], user_id=[1])


def test_versions_of_on_demand_views(small: Callable[..., Project]) -> None:
    facts_of(small())
    open_store(small())
    twice = ("TIMES = 1.0", "TIMES = 2.0")
    store = open_store(small(twice))
    store.materialize(NOW - 24 * HOUR, datetime.now(UTC))
    features = ["moment@v0:ratio", "moment@v1:ratio", "moment:ratio"]
    labels = {"item": ["a", "b"], "price": [9.0, 19.5], "event_timestamp": [NOW, NOW]}
    assert train(store, [*features, "facts@v0:clicks"], **labels) == {
        "moment@v0__ratio": [2.0, 3.0],
        "moment@v1__ratio": [4.0, 6.0],
        "moment__ratio": [4.0, 6.0],
        "facts@v0__clicks": [3, 5],
        "facts__clicks": [3, 5],  # Feast adds what on-demand views read
        "facts__mean_price": [4.5, 6.5],
    }
    with pytest.raises(CallError, match="facts@v0__clicks and facts__clicks would have one name"):
        train(store, ["moment:ratio", "facts@v0:clicks"], full=False, **labels)
    keys = {"item": ["a"], "price": [9.0]}
    assert [read(store, [name], full=False, **keys)["ratio"] for name in features] == [[2.0], [4.0], [4.0]]
    for asked in (features[:2], features[1:], ["facts@v0:clicks", "moment:ratio"]):
        with pytest.raises(CallError, match="cannot be read online in one call"):
            read(store, asked, **keys)
    # A version reads the views as they are now.
    store = open_store(small(twice, *OTHER))
    for ask in (lambda: train(store, features[:1], **labels), lambda: read(store, features[:1], **keys)):
        with pytest.raises(ValueError, match="facts cannot be applied because it contains mean_price"):
            ask()


def test_a_column_that_the_table_has_lost_is_named(small: Callable[..., Project]) -> None:
    open_store(small())
    store = open_store(
        small(
            (', Field(name="mean_price", dtype=Float64)', ""),
            ('inputs["mean_price"]', 'inputs["clicks"]'),
        )
    )
    append(small(), "item_facts", {"item": ["a"], "event_timestamp": [NOW - HOUR], "clicks": [1]})
    lost = "'facts@v0' has the feature 'mean_price', a column that table item_facts lacks"
    with pytest.raises(ProjectError, match=lost):
        train(store, ["facts@v0:clicks"], item=["a"], event_timestamp=[NOW])
    with pytest.raises(ProjectError, match=lost):
        store.materialize(NOW - 24 * HOUR, NOW, feature_views=["facts"], version="v0")


def test_the_next_build_decides_over_a_versions_state(small: Callable[..., Project]) -> None:
    facts_of(small())
    open_store(small())
    project = small(*OTHER)
    store = open_store(project)
    assert is_registry_as_applied(project.settings)
    store.materialize(NOW - 24 * HOUR, datetime.now(UTC), feature_views=["facts"], version="v0")
    assert not is_registry_as_applied(project.settings)  # so `up` drops nothing
    assert apply(project).changed
    assert is_registry_as_applied(project.settings)
    assert versions_of(store)["facts"] == ["v0", "v1"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ttl=DAY,", 'ttl=DAY, version="v1",', "feature view 'facts' is declared with version='v1'"),
        ("features=[activity, facts", 'features=[activity, "facts@v0"', "service 'bought' takes 'facts@v0'"),
    ],
)
def test_code_that_names_a_version_is_refused(
    small: Callable[..., Project], old: str, new: str, message: str
) -> None:
    project = small((old, new))
    for build in (apply, lambda project: compile(project, project.model("bought"))):
        with pytest.raises(ProjectError, match=message) as refused:
            build(project)
        assert "git has its other versions" in str(refused.value.remedy)


def test_a_service_of_text_is_applied(small: Callable[..., Project]) -> None:
    features = "features=[activity, facts, moment]"
    store = open_store(small((features, 'features=[activity, "facts:clicks"]')))
    references = [p.name for p in store.get_feature_service("bought").feature_view_projections]
    assert references == ["activity", "facts"]
    other = small((features, 'features=[activity, "facts:mean_price"]'))
    assert apply(other).changed
    assert not apply(other).changed
    (_, facts) = open_store(other).get_feature_service("bought").feature_view_projections
    assert [field.name for field in facts.features] == ["mean_price"]


def test_a_version_whose_entity_has_changed_is_refused_by_name(small: Callable[..., Project]) -> None:
    """Feast keeps no versions of entities. A store that was opened before the build sees the new key, too."""
    tables = (
        ("class Facts(dy.Schema):", "class Facts(dy.Schema):\n    thing = dy.String()"),
        ('.group_by("item").agg(', '.group_by("item").agg(thing=pl.col("item").first(),'),
    )
    project = small()
    facts = {"item": ["a", "b"], "thing": ["b", "a"], "clicks": [3, 5], "mean_price": [1.0, 2.0]}
    append(project, "item_facts", facts | {"event_timestamp": [NOW - HOUR] * 2})
    before = open_store(project)
    before.materialize(NOW - 24 * HOUR, datetime.now(UTC))
    assert read(before, ["facts@v0:clicks"], item=["a"]) == {"facts@v0__clicks": [3]}
    after = open_store(small(('join_keys=["item"]', 'join_keys=["thing"]'), tables=tables))
    before.refresh_registry()
    after.materialize(NOW - 24 * HOUR, datetime.now(UTC))
    for store in (before, after):
        assert read(store, ["facts:clicks"], thing=["a"]) == {"facts__clicks": [5]}
        for ask in (
            lambda store: read(store, ["facts@v0:clicks"], thing=["a"]),
            lambda store: train(store, ["facts@v0:clicks"], thing=["a"], event_timestamp=[NOW]),
            lambda store: store.materialize(NOW - HOUR, NOW, feature_views=["facts"], version="v0"),
        ):
            changed = "'facts@v0' cannot be read: its entity 'item' had the key 'item', and has 'thing' now"
            with pytest.raises(CallError, match=changed):
                ask(store)


def test_a_version_whose_key_has_another_type_is_refused_by_name(small: Callable[..., Project]) -> None:
    facts_of(small())
    open_store(small())
    tables = (("    item = dy.String()", "    item = dy.Int64()"),)
    text, number = "value_type=ValueType.STRING", "value_type=ValueType.INT64"
    store = open_store(small((text, number), tables=tables))
    with pytest.raises(CallError, match=r"had the key 'item' \(STRING\), and has 'item' \(INT64\) now"):
        train(store, ["facts@v0:clicks"], item=["a"], event_timestamp=[NOW])


def test_a_version_under_another_name_and_key(small: Callable[..., Project]) -> None:
    project = small()
    facts_of(project)
    store = open_store(project)
    store.materialize(NOW - 24 * HOUR, datetime.now(UTC))
    version = store.registry.get_feature_view_by_version("facts", store.project, 0)
    version.projection.version_tag = 0
    service = FeatureService(
        name="first", features=[version.with_name("old").with_join_key_map({"item": "thing"})]
    )
    store.apply(service)
    expected = {"old@v0__clicks": [5, 3], "old@v0__mean_price": [6.5, 4.5]}
    assert read(store, service, thing=["b", "a"]) == expected
    assert train(store, service, thing=["b", "a"], event_timestamp=[NOW, NOW]) == expected


def test_features_that_feast_would_leave_out_are_refused_by_name(small: Callable[..., Project]) -> None:
    facts_of(small())
    store = open_store(small())
    store.materialize(NOW - 24 * HOUR, datetime.now(UTC))
    for view in ("moment", "moment@v0"):
        with pytest.raises(CallError, match=f"Feast leaves out {view}__ratio") as refused:
            read(store, [f"{view}:ratio"], item=["a"], price=[9.0])
        assert "full_feature_names=False" in str(refused.value.remedy)


def test_a_view_becomes_one_of_another_kind(small: Callable[..., Project]) -> None:
    facts_of(small())
    open_store(small()).materialize(NOW - 24 * HOUR, datetime.now(UTC))
    stream = ('facts = FeatureView(name="facts",', 'facts = StreamFeatureView(name="facts",')
    project = small(stream, ("ttl=DAY,", 'ttl=DAY, timestamp_field="event_timestamp",'))
    store = open_store(project)
    assert versions_of(store)["facts"] == ["v0"]
    assert not apply(project).changed
    store.materialize(NOW - 24 * HOUR, datetime.now(UTC))
    assert read(store, ["facts:clicks"], item=["a", "b"]) == {"facts__clicks": [3, 5]}
    assert open_store(small()).get_feature_view("facts").name == "facts"


def test_a_version_that_another_process_dropped_is_materialized_again(small: Callable[..., Project]) -> None:
    project = small()
    facts_of(project)
    store = open_store(project)
    store.materialize(NOW - 24 * HOUR, datetime.now(UTC))
    state = online.open(project.settings)
    (view,) = [view for view in state.views() if view.name == "facts"]
    row = {"item": ["b"], "event_timestamp": [NOW - HOUR / 2], "clicks": [8], "mean_price": [7.5]}
    for fill, expected in (
        (lambda: store.materialize(NOW - HOUR, datetime.now(UTC), ["facts"], version="v0"), [3, 5]),
        (lambda: store.push("facts_stream", pd.DataFrame(row)), [None, 8]),
    ):
        state.drop(view.digest)
        with pytest.raises(Unavailable, match="'facts@v0' holds no values online"):
            read(store, ["facts@v0:clicks"], item=["a", "b"])
        fill()
        assert read(store, ["facts@v0:clicks"], item=["a", "b"]) == {"facts@v0__clicks": expected}


def test_a_view_without_entity_is_read_online_after_it_was_read_offline(small: Callable[..., Project]) -> None:
    """Feast takes the entity from the objects that its registry keeps."""
    alone = ("entities=[item], ttl=DAY", "entities=[], ttl=DAY")
    facts_of(small(alone))
    store = open_store(small(alone))
    store.materialize(NOW - 24 * HOUR, datetime.now(UTC))
    names = ["facts:clicks", "facts@v0:clicks"]
    expected = {"facts__clicks": [3], "facts@v0__clicks": [3]}
    kept = store.registry.get_any_feature_view("facts", store.project, allow_cache=True)
    kept.entities, kept.entity_columns = [], []  # as get_historical_features leaves it, if it got this object
    assert train(store, names, event_timestamp=[NOW]) == expected
    assert read(store, names, other=["x"]) == expected
