"""A small shop of events, written to a real lake as ingest would."""

import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest

from headrace.config.settings import load_settings
from headrace.kernel.properties import LATEST_ARRIVAL
from headrace.kernel.time import micros
from headrace.lake import Lake, LakeTable
from headrace.lake import open as open_lake
from headrace.projects.project import Project, load_project

EVENTS = """
from datetime import datetime
from headrace import Struct, event

@event(topic="clicks", time="at", key="user")
class Click(Struct):
    at: datetime
    user: int
    price: float
"""

TABLES = '''
from datetime import datetime, timedelta
import dataframely as dy
import polars as pl
from headrace import day, source, table
from tiny.events import Click

class Clean(dy.Schema):
    at = dy.Datetime(time_unit="us", time_zone="UTC", nullable=False)
    user = dy.Int64(nullable=False)
    price = dy.Float64(nullable=False, min_exclusive=0)

@table(reads=Click, partition_by=day("at"), rowwise=True, schema=Clean)
def clean(clicks: pl.LazyFrame) -> pl.LazyFrame:
    return clicks.select("at", "user", "price", "_known_at")

names = source("names", "data/names.csv")

@table(reads=names)
def people(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.select("user", "name")

@table(reads=[clean, people], partition_by=day("day"))
def daily(clicks: pl.LazyFrame, people: pl.LazyFrame) -> pl.LazyFrame:
    return (
        clicks.group_by("user", day=pl.col("at").dt.truncate("1d"))
        .agg(clicks=pl.len().cast(pl.Int64), spent=pl.col("price").sum())
        .join(people, on="user", how="left")
    )

@table(reads=clean, partition_by=day("begin", before="1d", after="1d"))
def visits(clicks: pl.LazyFrame, now: datetime) -> pl.LazyFrame:
    """A visit is a user's clicks without a pause of four hours; it counts when it is over."""
    return (
        clicks.sort("user", "at", "price")
        .with_columns(new=(pl.col("at").diff() > timedelta(hours=4)).fill_null(True).over("user"))
        .with_columns(visit=pl.col("new").cum_sum().over("user"))
        .group_by("user", "visit")
        .agg(begin=pl.col("at").min(), end=pl.col("at").max(), clicks=pl.len().cast(pl.Int64))
        .filter(pl.col("end") + timedelta(hours=4) <= now)
        .drop("visit")
    )
'''


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    package = tmp_path / "tiny"
    package.mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "headrace.toml").write_text('[project]\nname = "tiny"\n')
    (tmp_path / "data" / "names.csv").write_text("user,name\n1,Ann\n2,Bob\n")
    (package / "__init__.py").write_text("")
    (package / "events.py").write_text(EVENTS)
    (package / "tables.py").write_text(TABLES)
    yield load_project(load_settings(tmp_path))
    sys.path.remove(str(tmp_path))


@pytest.fixture
def lake(project: Project) -> Lake:
    return open_lake(project.settings)


@pytest.fixture
def clicks(lake: Lake) -> LakeTable:
    """The topic's table, empty."""
    stamp = pa.timestamp("us", "UTC")
    fields = [("at", stamp), ("user", pa.int64()), ("price", pa.float64()), ("_log_partition", pa.int32())]
    fields += [
        ("_log_offset", pa.int64()),
        ("_arrived_at", stamp),
        ("_known_at", stamp),
        ("_valid", pa.bool_()),
    ]
    return lake.ensure("clicks", pa.schema(fields), [("_valid", "identity"), ("at", "day")])


@pytest.fixture
def arrive(clicks: LakeTable) -> Callable[..., None]:
    """Appends (time, user) clicks that arrived at an instant."""

    def append(*events: tuple[datetime, int], arrived: datetime, valid: bool = True) -> None:
        count = len(events)
        rows = {
            "at": pa.array([at for at, _ in events], pa.timestamp("us", "UTC")),
            "user": pa.array([user for _, user in events], pa.int64()),
            "price": pa.array([1.0 + user for _, user in events], pa.float64()),
            "_known_at": pa.array([arrived] * count, pa.timestamp("us", "UTC")),
            "_valid": pa.array([valid] * count, pa.bool_()),
        }
        clock = str(micros(arrived))
        clicks.append(pa.table(rows), facts={LATEST_ARRIVAL: clock}, properties={LATEST_ARRIVAL: clock})

    return append
