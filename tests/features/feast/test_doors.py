"""Feast's own doors on each online store and each kind of registry."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from feast import FeatureStore
from feast.feature_server import get_app

from headrace import lake
from headrace.features.feast import apply, compile  # noqa: A004
from headrace.features.online import open as open_online
from headrace.kernel.position import LogPosition
from headrace.projects.project import Project

INSTANT = pa.timestamp("us", "UTC")
ASKED = {"features": ["facts:clicks", "facts:mean_price"], "entities": {"item": ["a", "none"]}}


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def database(request: pytest.FixtureRequest) -> str | dict[str, str]:
    if request.param == "redis":  # with the registry in a file
        return {"online": str(request.getfixturevalue("empty_redis"))}
    return "sqlite" if request.param == "sqlite" else str(request.getfixturevalue("empty_database"))


def test_materialize_get_online_features_and_serve(small: Callable[..., Project]) -> None:
    project, now = small(), datetime.now(UTC).replace(microsecond=0)
    rows = pa.table(
        {
            "item": ["a", "a"],
            "event_timestamp": pa.array([now - timedelta(hours=3), now - timedelta(hours=1)], INSTANT),
            "clicks": [1, 3],
            "mean_price": [2.0, 4.0],
        }
    )
    lake.open(project.settings).ensure("item_facts", rows.schema).append(rows)
    store = FeatureStore(repo_path=str(apply(project).folder))
    plan = compile(project, project.model("bought"))
    events = pa.table(
        {"user_id": [1, 1], "at": pa.array([now - timedelta(hours=2)] * 2, INSTANT), "price": [1.5, 2.0]}
    )
    with closing(open_online(project.settings)) as state:
        state.prepare(plan)
        state.fill(plan.windowed[0], events, LogPosition("clicks", "id", {0: 2}))
    with TestClient(get_app(store)) as client:
        answer = client.post("/materialize", json={"disable_event_timestamp": True})
        assert answer.status_code == 200, answer.text
        answer = client.post("/get-online-features", json=ASKED)
        assert answer.status_code == 200, answer.text
    body = answer.json()
    values = dict(zip(body["metadata"]["feature_names"], (r["values"] for r in body["results"]), strict=True))
    assert values == {"item": ["a", "none"], "clicks": [3, None], "mean_price": [4.0, None]}
    read = store.get_online_features(
        features=["facts:clicks", "activity:spent"], entity_rows=[{"item": "a", "user_id": 1}]
    )
    assert read.to_dict() == {"item": ["a"], "user_id": [1], "clicks": [3], "spent": [3.5]}
