from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureStore

from headrace import lake
from headrace.declare.project import Project
from headrace.features import online
from headrace.features.feast import apply, compile  # noqa: A004
from headrace.kernel.errors import CallError, Unavailable
from headrace.kernel.position import LogPosition, SnapshotPosition

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
    found: dict[str, list[Any]] = store.get_online_features(features=features, entity_rows=list(rows)).to_dict()
    return found


def test_materialize_then_read(
    store: FeatureStore, project: Project, now: datetime, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Unavailable, match="'facts' holds no values yet"):
        read(store, ["facts:clicks"], {"item": "a"})
    store.materialize(now - 24 * HOUR, now)
    found = read(store, ["facts:clicks", "facts:mean_price"], {"item": "a"}, {"item": "none"}, {"item": "b"})
    # b's row is older than the view's ttl of a day.
    assert found == {"item": ["a", "none", "b"], "clicks": [3, None, None], "mean_price": [4.0, None, None]}
    head = lake.open(project.settings).table("item_facts").head()
    assert head is not None
    (view,) = compile(project, project.model("bought")).as_of
    assert online.open(project.settings.online_url).position(view) == SnapshotPosition("item_facts", head.id)


def test_windowed_views_are_read_from_the_state_that_ingest_keeps(
    store: FeatureStore, project: Project, now: datetime
) -> None:
    store.materialize(now - 24 * HOUR, now)
    plan = compile(project, project.model("bought"))
    state = online.open(project.settings.online_url)
    state.prepare(plan)
    events = pa.table(
        {
            "user_id": [1, 1, 2],
            "at": pa.array([now - 2 * HOUR, now - HOUR, now - HOUR], INSTANT),
            "price": [1.5, 2.0, 9.0],
        }
    )
    state.fill(plan.windowed[0], events, LogPosition("clicks", "id", {0: 3}))
    found = read(store, store.get_feature_service("bought"), ASKED)
    assert found["spent"] == [3.5]
    assert found["clicks"] == [3]
    assert found["ratio"] == [2.0]


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


def test_push_before_any_load_leaves_the_next_fill_all_to_read(
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


def test_push_to_a_windowed_view_is_refused_by_name(store: FeatureStore, now: datetime) -> None:
    pushed = pd.DataFrame({"user_id": [1], "at": [now], "spent": [1.0]})
    with pytest.raises(CallError, match="can't be written to 'activity'") as raised:
        store.push("scaled_stream", pushed)
    assert "Send the event itself" in (raised.value.remedy or "")


def test_teardown_takes_the_state_away(store: FeatureStore, project: Project, now: datetime) -> None:
    store.materialize(now - 24 * HOUR, now)
    state = online.open(project.settings.online_url)
    assert state.views()
    store.teardown()
    assert state.views() == []
