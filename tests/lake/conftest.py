"""The two kinds of lake: SQLite with local files, and a real REST catalog with a real S3 object store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from services.catalog import Catalog
from services.s3 import Store

from headrace import lake
from headrace.config.settings import Settings, make_settings
from headrace.kernel.ids import new_id
from headrace.lake import Lake

# Without this, Polars warns at every scan that an optional package for planning scans is missing.
os.environ.setdefault("POLARS_ICEBERG_PLANNER", "pyiceberg")


@pytest.fixture
def local(tmp_path: Path) -> Settings:
    """Settings of a lake in local files."""
    return make_settings(tmp_path, "shop", state=tmp_path / ".headrace" / "local")


@pytest.fixture
def remote(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a lake on a REST catalog and S3."""
    store: Store = request.getfixturevalue("object_store")
    catalog: Catalog = request.getfixturevalue("rest_catalog")
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    project = f"shop_{new_id()[-12:]}"  # a new namespace
    return make_settings(tmp_path, project, "remote", values={"catalog": catalog.url, "warehouse": store.url})


@pytest.fixture(params=["local", "remote"])
def settings(request: pytest.FixtureRequest) -> Settings:
    """Settings of each kind of lake."""
    chosen: Settings = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def shop_lake(settings: Settings) -> Lake:
    return lake.open(settings)
