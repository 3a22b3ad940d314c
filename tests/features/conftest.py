"""A small project whose clicks run through a real log, lake and online store."""

import sys
from collections.abc import Iterator

import pytest

from headrace import lake as lakes
from headrace import log as logs
from headrace.config.settings import load_settings
from headrace.features import online
from headrace.projects.project import load_project

EVENTS = """
from datetime import datetime
from headrace import Struct, event

@event(topic="clicks", time="at", key="user", partitions=2)
class Click(Struct):
    at: datetime
    user: int
    price: float
"""

TABLES = '''
import polars as pl
from headrace import day, table
from small.events import Click

@table(reads=Click, partition_by=day("at"), rowwise=True)
def clean(clicks: pl.LazyFrame) -> pl.LazyFrame:
    """The clicks above a price of 1, in cents: drops rows and changes columns."""
    cents = (pl.col("price") * 100).cast(pl.Int64)
    return clicks.filter(pl.col("price") > 1).select("user", "at", "_known_at", cents=cents, price="price")

@table(reads=clean, partition_by=day("at"), rowwise=True)
def twice(clicks: pl.LazyFrame) -> pl.LazyFrame:
    return pl.concat([clicks, clicks.with_columns(cents=-pl.col("cents"))])

@table(reads=clean)
def facts(clicks: pl.LazyFrame) -> pl.LazyFrame:
    return clicks.group_by("user").agg(at=pl.col("at").max(), most=pl.col("price").max())
'''


@pytest.fixture
def online_address():
    """The setting `online` of the project; a test module replaces it to try other stores."""
    return "sqlite"


@pytest.fixture
def project(tmp_path, online_address):
    (tmp_path / "headrace.toml").write_text(
        f'[project]\nname = "small"\n[profile.local]\nonline = "{online_address}"\n'
    )
    package = tmp_path / "small"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "events.py").write_text(EVENTS)
    (package / "tables.py").write_text(TABLES)
    yield load_project(load_settings(tmp_path))
    sys.path.remove(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "small"]:
        del sys.modules[name]


@pytest.fixture
def log(project) -> Iterator[logs.Log]:
    opened = logs.open(project.settings.log.url)
    yield opened
    opened.close()


@pytest.fixture
def lake(project):
    return lakes.open(project.settings)


@pytest.fixture
def store(project) -> Iterator[online.OnlineStore]:
    opened = online.open(project.settings)
    yield opened
    opened.close()
