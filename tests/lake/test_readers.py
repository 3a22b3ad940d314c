"""Every snapshot of a table has the same rows for Polars, PyIceberg and the Java implementation."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl
import pyarrow as pa
import pytest
from services.catalog import JAVA
from services.server import jars

from headrace import lake
from headrace.config.settings import Settings
from headrace.declare.partitioning import number_of
from headrace.kernel.position import LogPosition, encode_position
from headrace.lake import Lake, LakeTable, expiry
from headrace.lake.schema import PartitionBy

STAMP = pa.timestamp("us", "UTC")
PARTITIONS: PartitionBy = [("_valid", "identity"), ("at", "day")]
START = LogPosition("events", "id-1")
AT_ONCE = timedelta(microseconds=-1)


def rows(count: int, day: int, start: int, *, valid: bool = True) -> pa.Table:
    begin = datetime(2024, 1, day, tzinfo=UTC)
    return pa.table(
        {
            "at": pa.array([begin + timedelta(seconds=i) for i in range(count)], STAMP),
            "_valid": pa.array([valid] * count),
            "x": pa.array(range(start, start + count), pa.int32()),
            "name": pa.array([None if i % 3 == 0 else f"née {i}" for i in range(count)], pa.string()),
        }
    )


@pytest.fixture
def table(shop_lake: Lake, monkeypatch: pytest.MonkeyPatch) -> LakeTable:
    """A table with appends, positions, expired snapshots, new columns, a tag, maintenance and an overwrite."""
    monkeypatch.setattr(expiry, "NEWEST", 5)
    monkeypatch.setattr(expiry, "_SLACK", 2)
    table = shop_lake.ensure("events", rows(1, 1, 0).schema, PARTITIONS)
    position = START
    for n in range(10):
        moved = position.with_offsets({0: 3 * (n + 1)})
        both = pa.concat_tables([rows(2, 1 + n % 2, 3 * n), rows(1, 1, 3 * n + 2, valid=False)])
        snapshot = table.append(both, position=("ingest", position, moved))
        position = moved
        if n == 4:
            table.create_tag("early", snapshot.id)
    lake.maintain(table, older_than=AT_ONCE, grace=AT_ONCE, longest_write=AT_ONCE)
    shop_lake.ensure("events", pa.schema([("x", pa.int64()), ("more", pa.float64()), ("at", STAMP)]))
    wide = rows(2, 3, 0).set_column(2, "x", pa.array([2**40, 2**41]))
    table.append(wide.append_column("more", pa.array([1.5, None])))
    table.overwrite(rows(1, 2, 7), partitions=(("at", "day"), [number_of("day", date(2024, 1, 2))]))
    for n in range(9):
        table.append(rows(1, 4, n))
    report = lake.maintain(table, grace=AT_ONCE, longest_write=AT_ONCE)
    assert report.compacted
    assert report.deleted
    table.append(rows(1, 5, 0))
    return table


def comparable_rows(frame: pl.DataFrame) -> list[str]:
    """Rows as sorted text: instants in microseconds, no nulls, since snapshots differ in columns."""
    instants = frame.with_columns(pl.col("at").dt.epoch("us"))
    return sorted(
        json.dumps({k: v for k, v in r.items() if v is not None}, sort_keys=True) for r in instants.to_dicts()
    )


def polars_rows(table: LakeTable) -> dict[int, list[str]]:
    return {s.id: comparable_rows(table.scan(s.id).collect()) for s in table.snapshots()}


def java_rows(settings: Settings, table: LakeTable) -> dict[int, list[str]]:
    """Snapshot → rows, as the Java implementation reads them by its JDBC catalog or its REST catalog."""
    folder = jars("catalog")
    properties = {
        "type": "jdbc",
        "uri": f"jdbc:sqlite:{urlsplit(settings.lake.catalog_url).path}",
        "warehouse": settings.lake.warehouse_url,
    }
    if settings.profile_name == "remote":
        properties = {
            "type": "rest",
            "uri": settings.lake.catalog_url,
            "io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
            "s3.endpoint": os.environ["AWS_ENDPOINT_URL_S3"],
            "s3.path-style-access": "true",
        }
    source = str(Path(__file__).parent / "Read.java")
    options = [f"{name}={value}" for name, value in properties.items()]
    done = subprocess.run(
        [*JAVA, "-cp", f"{folder}/*", source, f"{settings.project}.{table.name}", *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows_by_snapshot = {}
    for line in done.stdout.splitlines():
        answer: dict[str, Any] = json.loads(line)
        position = table.position("ingest")
        assert position is not None
        assert answer["position"] == encode_position(position)
        named = [{k: v for k, v in row.items() if v is not None} for row in answer["rows"]]
        rows_by_snapshot[answer["snapshot"]] = sorted(json.dumps(row, sort_keys=True) for row in named)
    return rows_by_snapshot


def test_every_snapshot_reads_the_same_in_other_readers(settings: Settings, table: LakeTable) -> None:
    expected = polars_rows(table)
    assert len(expected) > 5
    assert table.tags()["early"] in expected
    iceberg = table.iceberg()
    for snapshot in expected:
        pyiceberg = pl.from_arrow(iceberg.scan(snapshot_id=snapshot).to_arrow())
        assert isinstance(pyiceberg, pl.DataFrame)
        assert comparable_rows(pyiceberg) == expected[snapshot]
        by_path = pl.scan_iceberg(
            iceberg.metadata_location, snapshot_id=snapshot, storage_options=storage_options()
        )
        assert comparable_rows(by_path.collect()) == expected[snapshot]
    assert java_rows(settings, table) == expected


def test_other_readers_find_a_moved_lake(local: Settings, tmp_path: Path) -> None:
    table = lake.open(local).ensure("events", rows(1, 1, 0).schema, PARTITIONS)
    table.append(rows(3, 1, 0), position=("ingest", START, START.with_offsets({0: 3})))
    table.append(rows(3, 2, 3, valid=False))
    expected = polars_rows(table)
    folder = tmp_path / "elsewhere" / "state"
    folder.parent.mkdir()
    local.state.rename(folder)
    moved = local.with_state(folder)
    table = lake.open(moved).table("events")
    assert polars_rows(table) == expected
    assert java_rows(moved, table) == expected
    by_path = pl.scan_iceberg(table.iceberg().metadata_location)
    assert comparable_rows(by_path.collect()) == expected[table.snapshots()[-1].id]


def storage_options() -> dict[str, str]:
    """The address and keys of the object store, for a reader that opens a file by its address."""
    variables = {
        "s3.endpoint": os.environ.get("AWS_ENDPOINT_URL_S3"),
        "s3.access-key-id": os.environ.get("AWS_ACCESS_KEY_ID"),
        "s3.secret-access-key": os.environ.get("AWS_SECRET_ACCESS_KEY"),
        "s3.region": os.environ.get("AWS_REGION"),
    }
    return {name: value for name, value in variables.items() if value}
