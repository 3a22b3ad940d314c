"""One test for each of PyIceberg's internals that the lake uses: it fails when the internal changes."""

from __future__ import annotations

import inspect
import sqlite3
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import LocalFileSystem
from pyiceberg.avro.file import AvroFile
from pyiceberg.catalog import load_catalog
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.typedef import Record
from pyiceberg.types import StructType
from requests import Response
from requests.adapters import HTTPAdapter
from sqlalchemy import NullPool

from headrace.lake.pyiceberg_internals import (
    StatisticsPlan,
    connect_per_use,
    filesystem_of,
    prepare_commit,
    read_files,
    replace_manifests,
    rewrite_avro,
    set_snapshot_id,
)
from headrace.lake.rest import TimedRestCatalog

ROWS = pa.table({"text": ["a", "b"], "number": pa.array([1, None], pa.int64())})


@pytest.fixture
def catalog(tmp_path: Path) -> SqlCatalog:
    (tmp_path / "warehouse").mkdir()
    uri = f"sqlite:///{tmp_path}/catalog.db"
    catalog = load_catalog("test", type="sql", uri=uri, warehouse=f"{tmp_path}/warehouse")
    assert isinstance(catalog, SqlCatalog)
    catalog.create_namespace("shop")
    return catalog


@pytest.fixture
def table(catalog: SqlCatalog) -> Table:
    table = catalog.create_table(("shop", "events"), schema=ROWS.schema)
    table.append(ROWS)
    return catalog.load_table(("shop", "events"))


def test_sql_catalog_uses_the_engine_it_is_given(catalog: SqlCatalog, table: Table, tmp_path: Path) -> None:
    connect_per_use(catalog, f"sqlite:///{tmp_path}/catalog.db")
    assert isinstance(catalog.engine.pool, NullPool)
    assert catalog.load_table(table.name()).metadata_location == table.metadata_location


def test_sql_catalog_keeps_tables_in_iceberg_tables(table: Table, tmp_path: Path) -> None:
    query = "SELECT table_namespace, table_name, metadata_location FROM iceberg_tables"
    with sqlite3.connect(tmp_path / "catalog.db") as connection:
        assert connection.execute(query).fetchall() == [("shop", "events", table.metadata_location)]


def test_prepared_commit_is_tried_once_and_keeps_every_stored_snapshot(
    catalog: SqlCatalog, table: Table
) -> None:
    table.append(ROWS)
    first, second = (snapshot.snapshot_id for snapshot in table.snapshots())
    prepared = prepare_commit(catalog.load_table(table.name()), {"write.summary": "x"})
    assert [snapshot.snapshot_id for snapshot in prepared.snapshots()] == [second]
    assert prepared.properties["commit.retry.num-retries"] == "0"

    with prepared.transaction() as transaction, transaction.update_snapshot().merge_append():
        pass

    stored = catalog.load_table(table.name())
    assert [s.snapshot_id for s in stored.snapshots()][:2] == [first, second]
    assert len(stored.snapshots()) == 3
    assert "commit.retry.num-retries" not in stored.properties


def test_snapshot_producer_deletes_files_and_knows_its_snapshot_before_the_commit(table: Table) -> None:
    (task,) = table.scan().plan_files()
    transaction = prepare_commit(table, {}).transaction()
    producer = transaction.update_snapshot(snapshot_properties={"headrace.x": "1"}).overwrite()
    producer.delete_data_file(task.file)
    producer.commit()
    transaction.commit_transaction()
    snapshot = table.snapshot_by_id(producer.snapshot_id)
    assert snapshot is not None
    assert snapshot.summary is not None
    assert snapshot.summary.additional_properties["headrace.x"] == "1"
    assert table.scan().to_arrow().num_rows == 0


def test_file_io_gives_the_file_system_of_a_table(catalog: SqlCatalog, table: Table) -> None:
    io, system = filesystem_of(catalog, table)
    assert isinstance(io, PyArrowFileIO)
    assert isinstance(system, LocalFileSystem)
    _, _, path = io.parse_location(table.metadata_location)
    assert system.get_file_info(path).is_file


def test_arrow_scan_reads_one_file(table: Table) -> None:
    (task,) = table.scan().plan_files()
    assert read_files(table, [task.file]).to_pylist() == ROWS.to_pylist()


def test_avro_file_is_rewritten_with_its_schema_and_metadata(table: Table) -> None:
    snapshot = table.current_snapshot()
    assert snapshot is not None
    (manifest,) = snapshot.manifests(table.io)
    path = Path(manifest.manifest_path)

    def change(record: Record, struct: StructType) -> None:
        names = [field.name for field in struct.fields]
        assert names[:2] == ["status", "snapshot_id"]
        data_file = record[names.index("data_file")]
        data_file[1] = data_file[1].replace(".parquet", ".moved")

    with AvroFile[Record](table.io.new_input(str(path))) as file:
        before = file.header.meta
    rewrite_avro(path, change)
    with AvroFile[Record](table.io.new_input(str(path))) as file:
        assert file.header.meta == before
    (entry,) = manifest.fetch_manifest_entry(table.io)
    assert entry.data_file.file_path.endswith(".moved")
    assert [other.name for other in path.parent.glob(".*")] == []


def test_statistics_equal_those_of_pyicebergs_writer(table: Table, tmp_path: Path) -> None:
    (task,) = table.scan().plan_files()
    path = tmp_path / "own.parquet"
    pq.write_table(ROWS, path)

    data_file = DataFile.from_args(**StatisticsPlan.of(table).statistics(pq.read_metadata(path)))

    for field in ("record_count", "value_counts", "null_value_counts", "lower_bounds", "upper_bounds"):
        assert getattr(data_file, field) == getattr(task.file, field), field


def test_statistics_bound_a_text_that_pyiceberg_cannot_bound(table: Table, tmp_path: Path) -> None:
    rows = pa.table({"text": [chr(0xD7FF) * 40], "number": [1]})  # the next code point is a surrogate
    with pytest.raises(UnicodeEncodeError):
        table.append(rows)
    path = tmp_path / "long.parquet"
    pq.write_table(rows, path)

    bounds = StatisticsPlan.of(table).statistics(pq.read_metadata(path))["upper_bounds"]

    assert bounds[1].decode() == chr(0xD7FF) * 15 + chr(0xE000)


def test_rest_catalog_creates_its_session_in_the_method_that_sets_time_limits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "_create_session" in inspect.getsource(RestCatalog.__init__)
    limits: list[object] = []

    def send(
        self: HTTPAdapter, request: object, *args: object, timeout: object = None, **more: object
    ) -> Response:
        limits.append(timeout)
        response = Response()
        response.status_code = 200
        response._content = b'{"defaults": {}, "overrides": {}}'
        return response

    monkeypatch.setattr(HTTPAdapter, "send", send)
    TimedRestCatalog("test", uri="http://127.0.0.1:9")
    assert limits
    assert set(limits) == {(5.0, 60.0)}


def test_polars_reads_a_snapshot_with_its_native_reader(table: Table) -> None:
    first = table.current_snapshot()
    assert first is not None
    table.append(ROWS)
    scan = pl.scan_iceberg(table, snapshot_id=first.snapshot_id, reader_override="native")
    assert scan.collect().to_dicts() == ROWS.to_pylist()


def test_a_commit_takes_the_snapshot_id_that_it_is_given(catalog: SqlCatalog, table: Table) -> None:
    transaction = table.transaction()
    producer = transaction.update_snapshot().merge_append()
    set_snapshot_id(producer, 7)
    for task in table.scan().plan_files():
        producer.append_data_file(task.file)
    producer.commit()
    transaction.commit_transaction()
    stored = catalog.load_table(table.name())
    snapshot = stored.current_snapshot()
    assert snapshot is not None
    assert snapshot.snapshot_id == producer.snapshot_id == 7
    manifests = snapshot.manifests(stored.io)
    assert 7 in {manifest.added_snapshot_id for manifest in manifests}
    assert stored.scan(snapshot_id=7).to_arrow().num_rows == 2 * len(ROWS)


def test_a_commit_replaces_every_manifest_although_a_partition_column_is_gone(table: Table) -> None:
    with table.transaction() as change, change.update_spec() as spec:
        spec.add_identity("number")
    table.append(ROWS)
    with table.transaction() as change:
        with change.update_spec() as spec:
            spec.remove_field("number")
        with change.update_schema(allow_incompatible_changes=True) as schema:
            schema.delete_column("number")
    former = table.current_snapshot()
    assert former is not None
    files = [task.file for task in table.scan().plan_files()]
    transaction = table.transaction()
    producer = transaction.update_snapshot().overwrite()
    for data_file in files:
        producer.delete_data_file(data_file)
    replace_manifests(producer)
    producer.commit()
    transaction.commit_transaction()
    assert table.scan().to_arrow().num_rows == 0
    assert table.scan(snapshot_id=former.snapshot_id).to_arrow().num_rows == 2 * ROWS.num_rows
