"""A project whose profile names a REST catalog and S3, from its events to its tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from services.catalog import Catalog
from services.s3 import Store
from tests.tiny import write

from headrace import lake, log
from headrace.config.settings import load_settings
from headrace.flows.build import build
from headrace.flows.events.ingest import ingest
from headrace.flows.project.doctor import doctor
from headrace.kernel.ids import new_id
from headrace.workspace import Workspace

EVENTS = """
from datetime import datetime
from headrace import Struct, event

@event(topic="clicks", time="at", key="user")
class Click(Struct):
    at: datetime
    user: int
"""
TABLES = """
import polars as pl
from headrace import day, table
from tiny.events import Click

@table(reads=Click, partition_by=day("at"), rowwise=True)
def clicks_of_day(clicks):
    return clicks.select("at", "user", "_known_at")

@table(reads=clicks_of_day)
def users(clicks):
    return clicks.group_by("user").len()
"""


def test_project_builds_on_a_rest_catalog_and_s3(
    tmp_path: Path, rest_catalog: Catalog, object_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    root = write(tmp_path / "project", TABLES)
    (root / "tiny" / "events.py").write_text(EVENTS)
    profile = f'[profile.prod]\ncatalog = "{rest_catalog.url}"\nwarehouse = "{object_store.url}"\n'
    name = f"tiny_{new_id()[-12:]}"  # a new namespace
    (root / "headrace.toml").write_text(f'[project]\nname = "{name}"\n{profile}')
    (root / "tiny").rename(root / name)
    tables = root / name / "tables.py"
    tables.write_text(tables.read_text().replace("tiny.events", f"{name}.events"))

    settings = load_settings(root, "prod")
    events = log.open(settings.log.url)
    events.create("clicks")

    def update_project(day: int, users: range) -> None:
        values = [f'{{"at": "2026-03-0{day}T12:00:{user:02}Z", "user": {user}}}' for user in users]
        events.append("clicks", [event.encode() for event in values] + [b"{broken"])
        assert ingest(Workspace(settings), until_end=True).events == len(values) + 1
        assert {stage.stage for stage in build(Workspace(settings)).stages} == {
            "table-clicks_of_day",
            "table-users",
        }

    update_project(1, range(3))
    update_project(2, range(2))
    events.close()
    assert build(Workspace(settings)).stages == ()
    shop_lake = lake.open(settings)
    read = shop_lake.table("clicks_of_day").scan().collect()
    assert read["at"].dt.day().value_counts(sort=True).rows() == [(1, 3), (2, 2)]
    users = shop_lake.table("users").scan().sort("user").collect()
    assert users.rows() == [(0, 2), (1, 2), (2, 1)]
    assert shop_lake.table("users").iceberg().location().startswith(f"{object_store.url}/")
    assert not settings.place("lake").exists()  # no local lake was created
    # A tag protects the input of the last build from maintenance.
    clicks = shop_lake.table("clicks")
    assert [pin for pin in clicks.tags() if pin.startswith("input-of-clicks_of_day-")]
    checks = {check.what: check for check in doctor(Workspace(settings))}
    assert checks[f"catalog {rest_catalog.url}"].detail == "4 tables"  # headrace_visible too
    assert checks[f"catalog {rest_catalog.url}"].fine
    assert checks[f"warehouse {object_store.url}"].fine
