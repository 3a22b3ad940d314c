"""A join key that changes its type between two builds."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from feast import FeatureStore

from headrace import lake
from headrace.features import online
from headrace.features.feast import apply, compile, stored_digests  # noqa: A004
from headrace.features.online.backfill import fill
from headrace.features.plan import FeaturePlan
from headrace.kernel.errors import ProjectError
from headrace.kernel.time import now_micros
from headrace.projects.project import Project

NOW = datetime.now(UTC).replace(microsecond=0)
ITEM = 'item = Entity(name="item", join_keys=["item"], value_type=ValueType.STRING)'
NUMBER = (
    ("class Facts(dy.Schema):\n    item = dy.String()", "class Facts(dy.Schema):\n    item = dy.Int64()"),
    (
        '    item = dy.String()\n    event_timestamp = dy.Datetime(time_unit="us", time_zone="UTC")\n    price',
        '    item = dy.Int64()\n    event_timestamp = dy.Datetime(time_unit="us", time_zone="UTC")\n    price',
    ),
)


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def database(request: pytest.FixtureRequest) -> str | dict[str, str]:
    if request.param == "redis":
        return {"online": str(request.getfixturevalue("empty_redis"))}
    return "" if request.param == "sqlite" else str(request.getfixturevalue("empty_database"))


def build(project: Project, items: list[Any], clicks: list[int]) -> FeaturePlan:
    """Writes the rows of the table, fills the view `facts`, and applies the project to Feast."""
    times = pa.array([NOW - timedelta(hours=1)] * len(items), pa.timestamp("us", "UTC"))
    rows = pa.table(
        {"item": items, "event_timestamp": times, "clicks": clicks, "mean_price": [1.0] * len(items)}
    )
    lake.open(project.settings).ensure("item_facts", rows.schema, exact=True).overwrite(rows)
    plan = compile(project, project.model("bought"))
    with closing(online.open(project.settings)) as store:
        fill(project, lake.open(project.settings), plan, store)
    return plan


def look_up(project: Project, plan: FeaturePlan, items: list[Any]) -> list[Any]:
    with closing(online.open(project.settings)) as store:
        result = store.lookup(plan, [{"item": item} for item in items], now_micros())
    return [row[0] for row in result.rows]


def test_a_key_that_becomes_a_number_has_states_of_its_own(small: Callable[..., Project]) -> None:
    """Both types are served side by side, by a release of each; Feast reads the one that is declared."""
    service = ("features=[activity, facts, moment]", "features=[facts]")
    before = small(service)
    old = build(before, ["7", "07"], [1, 2])
    assert look_up(before, old, ["7", "07", "8"]) == [1, 2, None]
    number = (ITEM, ITEM.replace("STRING", "INT64"))
    after = small(service, number, tables=NUMBER)
    new = build(after, [7, 8], [3, 4])
    assert look_up(after, new, [7, 8, 9]) == [3, 4, None]
    assert look_up(after, old, ["7", "07", "8"]) == [1, 2, None]
    assert stored_digests(after)["facts"] == new.stored[0].digest
    feast = FeatureStore(repo_path=str(apply(after).folder))
    read = feast.get_online_features(features=["facts:clicks"], entity_rows=[{"item": 7}, {"item": 9}])
    assert read.to_dict()["clicks"] == [3, None]
    with closing(online.open(after.settings)) as store:
        with pytest.raises(
            ProjectError, match="key 'item' of view 'facts' is declared as string, but it is int64"
        ):
            fill(after, lake.open(after.settings), old, store)
        assert store.position(old.stored[0]) != store.position(new.stored[0])
