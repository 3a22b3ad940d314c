from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureService, FeatureStore, Field
from feast.data_source import PushMode
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64

from headrace import lake
from headrace.features import online
from headrace.features.feast import apply, compile  # noqa: A004
from headrace.kernel.errors import CallError, Unavailable
from headrace.kernel.position import LogPosition, SnapshotPosition
from headrace.projects.project import Project

HOUR = timedelta(hours=1)
INSTANT = pa.timestamp("us", "UTC")
ASKED = {"user_id": 1, "item": "a", "price": 8.0}


def facts(*rows: tuple[str, datetime, int, float | None]) -> pa.Table:
    item, time, clicks, mean_price = zip(*rows, strict=True)
    return pa.table(
        {
            "item": list(item),
            "event_timestamp": pa.array(list(time), INSTANT),
            "clicks": list(clicks),
            "mean_price": pa.array(list(mean_price), pa.float64()),
        }
    )


@pytest.fixture(params=["files", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    return "" if request.param == "files" else str(request.getfixturevalue("empty_database"))


@pytest.fixture
def project(small: Callable[..., Project]) -> Project:
    return small()


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def store(project: Project, now: datetime) -> FeatureStore:
    """Stock Feast on the small project, with facts in the lake."""
    rows = facts(("a", now - 3 * HOUR, 1, 2.0), ("a", now - HOUR, 3, 4.0), ("b", now - 48 * HOUR, 5, None))
    lake.open(project.settings).ensure("item_facts", rows.schema).append(rows)
    return FeatureStore(repo_path=str(apply(project).folder))


def read(store: FeatureStore, features: Any, *rows: dict[str, Any]) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = store.get_online_features(
        features=features, entity_rows=list(rows)
    ).to_dict()
    return values


def test_materialize_then_read(
    store: FeatureStore, project: Project, now: datetime, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Unavailable, match="'facts' holds no values yet"):
        read(store, ["facts:clicks"], {"item": "a"})
    store.materialize(now - 24 * HOUR, now)
    values = read(store, ["facts:clicks", "facts:mean_price"], {"item": "a"}, {"item": "none"}, {"item": "b"})
    # b's row is older than the view's ttl of a day.
    assert values == {"item": ["a", "none", "b"], "clicks": [3, None, None], "mean_price": [4.0, None, None]}
    head = lake.open(project.settings).table("item_facts").current_snapshot()
    assert head is not None
    (view,) = compile(project, project.model("bought")).as_of
    assert online.open(project.settings).position(view) == SnapshotPosition("item_facts", head.id)


def test_windowed_views_are_read_from_the_state_that_ingest_keeps(
    store: FeatureStore, project: Project, now: datetime
) -> None:
    store.materialize(now - 24 * HOUR, now)
    plan = compile(project, project.model("bought"))
    state = online.open(project.settings)
    state.prepare(plan)
    events = pa.table(
        {
            "user_id": [1, 1, 2],
            "at": pa.array([now - 2 * HOUR, now - HOUR, now - HOUR], INSTANT),
            "price": [1.5, 2.0, 9.0],
        }
    )
    state.fill(plan.windowed[0], events, LogPosition("clicks", "id", {0: 3}))
    values = read(store, store.get_feature_service("bought"), ASKED)
    assert values["spent"] == [3.5]
    assert values["clicks"] == [3]
    assert values["ratio"] == [2.0]


def test_push_to_an_as_of_view(store: FeatureStore, project: Project, now: datetime) -> None:
    store.materialize(now - 24 * HOUR, now)
    pushed = pd.DataFrame(
        {
            "item": ["a", "c"],
            "event_timestamp": [now - HOUR / 2, now - HOUR],
            "clicks": [7, 8],
            "mean_price": [1.0, 1.0],
        }
    )
    store.push("facts_stream", pushed)
    assert read(store, ["facts:clicks"], {"item": "a"}, {"item": "c"})["clicks"] == [7, 8]
    store.push("facts_stream", pushed.assign(event_timestamp=now - 2 * HOUR, clicks=[0, 0]))
    assert read(store, ["facts:clicks"], {"item": "a"}, {"item": "c"})["clicks"] == [7, 8]


def test_after_a_push_to_an_empty_view_the_next_fill_reads_the_whole_table(
    store: FeatureStore, project: Project, now: datetime
) -> None:
    pushed = pd.DataFrame(
        {
            "item": ["c"],
            "event_timestamp": [(now - HOUR).replace(tzinfo=None)],
            "clicks": [8],
            "mean_price": [1.0],
        }
    )
    store.write_to_online_store("facts", pushed)
    assert read(store, ["facts:clicks"], {"item": "c"})["clicks"] == [8]
    store.materialize_incremental(now)
    assert read(store, ["facts:clicks"], {"item": "a"}, {"item": "c"})["clicks"] == [3, 8]


def test_materialize_loads_current_and_future_rows(
    store: FeatureStore, project: Project, now: datetime
) -> None:
    table = lake.open(project.settings).table("item_facts")
    table.append(facts(("a", now + 3 * HOUR, 22, 9.0)))
    store.materialize_incremental(now)
    assert read(store, ["facts:clicks"], {"item": "a"})["clicks"] == [3]


def test_materialize_removes_rows_the_table_lacks_and_keeps_pushed_rows(
    store: FeatureStore, project: Project, now: datetime
) -> None:
    store.materialize(now - 24 * HOUR, now)
    pushed = facts(("c", now - HOUR, 8, 1.0)).to_pandas()
    store.push("facts_stream", pushed)
    lake.open(project.settings).table("item_facts").overwrite(facts(("b", now - 2 * HOUR, 6, 1.0)))
    store.materialize(now - 24 * HOUR, now)
    assert read(store, ["facts:clicks"], *({"item": item} for item in "abc"))["clicks"] == [None, 6, 8]


@pytest.mark.parametrize(
    "form", ["{:%Y-%m-%dT%H:%M:%SZ}", "{:%Y-%m-%d %H:%M:%S}", "{:%Y-%m-%dT%H:%M:%S+00:00}"]
)
def test_times_may_be_text(store: FeatureStore, now: datetime, form: str) -> None:
    store.materialize(now - 24 * HOUR, now)
    rows = {"item": ["a"], "event_timestamp": [form.format(now)], "clicks": [7], "mean_price": [None]}
    store.push("facts_stream", pd.DataFrame(rows))
    assert read(store, ["facts:clicks", "facts:mean_price"], {"item": "a"}) == {
        "item": ["a"],
        "clicks": [7],
        "mean_price": [None],
    }


PUSHED_WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no time": ({"event_timestamp": [pd.NaT]}, "have no event_timestamp in row 0"),
    "no key": ({"item": [None]}, "have no item in row 0"),
    "text that is not a time": ({"event_timestamp": ["yesterday"]}, "'yesterday', which is not a time"),
    "a number for a time": ({"event_timestamp": [7]}, "'event_timestamp' .* holds Int64, not times"),
    "a number for a key of text": ({"item": [5]}, "'item' .* is Int64, not string"),
    "half a click": ({"clicks": [1.5]}, "'clicks' .* is int64, and 1.5 is not a whole number"),
    "text for a number": ({"mean_price": ["dear"]}, "'mean_price' .* is String, not float64"),
}


def test_a_wrong_pushed_row_is_refused_by_name(store: FeatureStore, now: datetime) -> None:
    row = {"item": ["a"], "event_timestamp": [now], "clicks": [7], "mean_price": [1.0]}
    for wrong, text in PUSHED_WRONG.values():
        with pytest.raises(CallError, match=text) as raised:
            store.write_to_online_store("facts", pd.DataFrame({**row, **wrong}))
        assert "'facts'" in raised.value.what
        assert raised.value.remedy, text
    with pytest.raises(CallError, match="lack event_timestamp"):
        store.write_to_online_store("facts", pd.DataFrame(row).drop(columns="event_timestamp"))


def test_a_key_that_is_null_or_of_another_type_is_refused_by_name(store: FeatureStore, now: datetime) -> None:
    """Feast would ask for "1" in place of 1, and for 1 in place of 1.5 and True."""
    store.materialize(now - 24 * HOUR, now)
    whole, text = "'user_id', a key of 'activity', is ", "'item', a key of 'facts', is "
    wrong: list[tuple[dict[str, Any], str]] = [
        *(({"item": value}, f"{text}null") for value in (None, pd.NA, float("nan"))),
        ({"item": 1}, f"{text}1 (int)"),
        ({"item": ["a"]}, f"{text}['a'] (list)"),
        ({"user_id": None}, f"{whole}null"),
        ({"user_id": 1.5}, f"{whole}1.5 (float)"),
        ({"user_id": True}, f"{whole}True (bool)"),
        ({"user_id": "x"}, f"{whole}'x' (str)"),
        ({"user_id": "9" * 5000}, f"{whole}'999"),
        ({"user_id": 2**63}, f"{whole}9223372036854775808 (int)"),
        ({"user_id": float("inf")}, f"{whole}inf (float)"),
    ]
    for change, what in wrong:
        for rows in ([ASKED, ASKED | change], {k: [v, (ASKED | change)[k]] for k, v in ASKED.items()}):
            with pytest.raises(CallError) as raised:
                store.get_online_features(["facts:clicks", "activity:spent"], rows)  # type: ignore[arg-type]
            assert raised.value.what.startswith(what), raised.value.what
            assert raised.value.what.endswith("in row 1 of entity_rows")
    with pytest.raises(CallError, match="'user', a key of 'activity', is null in row 0"):
        read(store, ["activity:spent"], {"user": None})  # by its entity's name
    with pytest.raises(CallError, match="entity_rows is empty"):
        read(store, ["facts:clicks"])
    view = store.get_feature_view("facts").with_name("other").with_join_key_map({"item": "other"})
    service = FeatureService(name="mapped", features=[view])
    store.registry.apply_feature_service(service, store.project)
    with pytest.raises(CallError, match="'other', a key of 'other', is 1 "):
        read(store, service, {"other": 1})


def test_a_whole_number_may_be_text_or_a_float(store: FeatureStore, project: Project, now: datetime) -> None:
    """As Feast's command line and pandas have it."""
    plan = compile(project, project.model("bought"))
    state = online.open(project.settings)
    state.prepare(plan)
    events = pa.table({"user_id": [7], "at": pa.array([now - HOUR], INSTANT), "price": [1.5]})
    state.fill(plan.windowed[0], events, LogPosition("clicks", "id", {0: 1}))
    asked = [{"user_id": value} for value in ("7", 7.0, np.int64(7), 7)]
    assert [read(store, ["activity:spent"], row)["spent"] for row in asked] == [[1.5]] * 4


def test_writes_to_the_offline_store_are_refused_by_name(store: FeatureStore, now: datetime) -> None:
    rows = facts(("a", now, 7, 1.0)).to_pandas()
    with pytest.raises(CallError, match="'facts' cannot be written to its table"):
        store.push("facts_stream", rows, to=PushMode.OFFLINE)
    with pytest.raises(CallError, match="'facts' cannot be written to its table"):
        store.write_to_offline_store("facts", rows)
    labels = pd.DataFrame({"item": ["a"], "event_timestamp": [now]})
    job = store.get_historical_features(entity_df=labels, features=["facts:clicks"])
    for call in (job.to_sql, job.to_remote_storage, lambda: job.persist(None)):
        with pytest.raises(CallError):
            call()
    logged = LoggingConfig(destination=FileLoggingDestination(path="logs"))
    service = FeatureService(name="logged", features=[store.get_feature_view("facts")], logging_config=logged)
    with pytest.raises(CallError, match="features cannot be logged to a FileLoggingDestination"):
        store._get_provider().write_feature_service_logs(service, pa.table({}), store.config, store.registry)


def test_push_to_a_windowed_view_is_refused_by_name(store: FeatureStore, now: datetime) -> None:
    pushed = pd.DataFrame({"user_id": [1], "at": [now], "spent": [1.0]})
    with pytest.raises(CallError, match="cannot be written to 'activity'") as raised:
        store.push("scaled_stream", pushed)
    assert "Send the event itself" in (raised.value.remedy or "")


def test_an_on_demand_view_whose_values_are_to_be_kept_is_refused_by_name(
    store: FeatureStore, now: datetime
) -> None:
    """A build refuses it; Feast's own `apply` does not ask Headrace."""

    @on_demand_feature_view(
        sources=[store.get_feature_view("facts")],
        entities=[store.get_entity("item")],
        schema=[Field(name="twice", dtype=Float64)],
        mode="pandas",
        write_to_online_store=True,
    )
    def kept(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"twice": 2 * inputs["mean_price"]})

    with pytest.warns(RuntimeWarning, match="experimental"):
        store.apply([kept])
    for call in (
        lambda: store.materialize(now - 24 * HOUR, now, feature_views=["kept"]),
        lambda: read(store, ["kept:twice"], {"item": "a"}),
    ):
        with pytest.raises(CallError, match="'kept': write_to_online_store is not supported"):
            call()


def test_teardown_removes_the_state(store: FeatureStore, project: Project, now: datetime) -> None:
    store.materialize(now - 24 * HOUR, now)
    state = online.open(project.settings)
    assert state.views()
    store.teardown()
    assert state.views() == []
