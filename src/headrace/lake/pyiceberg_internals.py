"""All uses of PyIceberg beyond its documented API, with the reason for each.

The bounds of PyIceberg's version are in pyproject.toml. tests/lake/test_pyiceberg_internals.py has a test for
each function here, which fails if a new version changes the internals that the function uses.

One internal is used elsewhere: `RestCatalog._create_session` in rest.py, so that only a REST catalog pays for
its import.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct
from pyarrow.fs import FileSystem
from pyiceberg.avro.file import AvroFile, AvroOutputFile
from pyiceberg.catalog import Catalog
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import (
    ArrowScan,
    DataFileStatistics,
    PyArrowFileIO,
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema
from pyiceberg.table import FileScanTask, Table
from pyiceberg.table.refs import MAIN_BRANCH
from pyiceberg.typedef import Record
from pyiceberg.types import StructType
from sqlalchemy import NullPool, create_engine

from headrace.kernel.errors import CallError
from headrace.kernel.files import write_file

if TYPE_CHECKING:
    from pyiceberg.catalog.sql import SqlCatalog

__all__ = [
    "StatisticsPlan",
    "connect_per_use",
    "filesystem_of",
    "prepare_commit",
    "read_files",
    "replace_manifests",
    "rewrite_avro",
    "set_snapshot_id",
    "set_text_bounds",
]


def connect_per_use(catalog: SqlCatalog, uri: str) -> None:
    """Makes a SQL catalog open a new connection for each use.

    A Lake is never closed, so nothing would close a pooled connection. Connecting to SQLite is fast.
    """
    catalog.engine.dispose()
    catalog.engine = create_engine(uri, poolclass=NullPool)


def prepare_commit(table: Table, properties: Mapping[str, str]) -> Table:
    """Changes the table in memory, so that a commit of it is tried once and costs little.

    PyIceberg's own retry of a stale append would ignore that another writer has moved a position, so retries
    are switched off. PyIceberg copies all snapshots a dozen times per commit, so only the current one is kept.

    Args:
        table: the table, loaded for this commit.
        properties: further properties of the table for this commit.
    """
    metadata = table.metadata
    current = metadata.current_snapshot()
    changes: dict[str, Any] = {
        "properties": {**metadata.properties, "commit.retry.num-retries": "0", **properties},
        "snapshots": [] if current is None else [current],
        "snapshot_log": [],
        "refs": {name: ref for name, ref in metadata.refs.items() if name == MAIN_BRANCH},
    }
    if table.catalog.properties.get("type") == "rest":
        changes["metadata_log"] = []  # the service deletes old metadata, so PyIceberg must not
    table.metadata = metadata.model_copy(update=changes)
    return table


def set_snapshot_id(producer: Any, snapshot_id: int) -> None:
    """Gives the snapshot of a commit this id. The table must not have it. PyIceberg chooses one at random."""
    producer._snapshot_id = snapshot_id


def filesystem_of(catalog: Catalog, table: Table) -> tuple[PyArrowFileIO, FileSystem]:
    """PyIceberg's file access for the table, and its PyArrow file system, which alone can list files.

    Raises:
        CallError: the catalog is set up for file access by fsspec.
    """
    io = table.io
    if not isinstance(io, PyArrowFileIO):
        raise CallError(
            f"files are accessed by {type(io).__name__}, not by PyArrow",
            where=f"catalog {catalog.name}",
            remedy="Leave out the catalog's property py-io-impl.",
        )
    scheme, netloc, _ = io.parse_location(table.location())
    return io, io.fs_by_scheme(scheme, netloc)


def read_files(table: Table, files: Iterable[DataFile], schema: Schema | None = None) -> pa.Table:
    """Reads the rows of data files, with these columns (default: the table's current ones).

    The public scan plans whole tables, but a compaction reads the files of one group.
    """
    scan = ArrowScan(table.metadata, table.io, schema or table.schema(), AlwaysTrue())
    return scan.to_table([FileScanTask(file) for file in files])


def replace_manifests(producer: Any) -> None:
    """Makes a commit that removes every file write none of the former manifests again.

    PyIceberg lists the removed files in new manifests. It cannot, if they are partitioned by a column that the
    table no longer has.
    """
    producer._deleted_entries = list
    producer._existing_manifests = list
    producer._build_delete_files_partition_predicate = lambda: None


def rewrite_avro(path: Path, change: Callable[[Record, StructType], None]) -> None:
    """Rewrites a manifest or a manifest list, so that a crash leaves the old file or the new one.

    Args:
        path: the file.
        change: changes one record of the file, given the schema of its fields.
    """
    io = PyArrowFileIO()
    with AvroFile[Record](io.new_input(str(path))) as source:
        records = list(source)
    struct = source.schema.as_struct()
    for record in records:
        change(record, struct)
    name = json.loads(source.header.meta["avro.schema"])["name"]
    draft = path.with_name(f".{path.name}.draft")
    with AvroOutputFile[Record](
        io.new_output(str(draft)), source.schema, name, metadata=source.header.meta
    ) as output:
        output.write_block(records)
    write_file(path, draft.read_bytes())
    draft.unlink()


class StatisticsPlan(Struct, frozen=True):
    """The statistics that a table's data files have, as PyIceberg's own writer computes them."""

    columns: dict[int, Any]
    ids: dict[str, int]

    @classmethod
    def of(cls, table: Table) -> StatisticsPlan:
        """The plan of the table's schema and properties."""
        return cls(
            cast("dict[int, Any]", compute_statistics_plan(table.schema(), table.properties)),
            parquet_path_to_id_mapping(table.schema()),
        )

    def statistics(self, metadata: pq.FileMetaData) -> dict[str, Any]:
        """The statistics of a Parquet file, as fields of a DataFile."""
        statistics = data_file_statistics_from_parquet_metadata(
            parquet_metadata=metadata, stats_columns=self.columns, parquet_column_mapping=self.ids
        )
        set_text_bounds(statistics)
        return statistics.to_serialized_dict()


def set_text_bounds(statistics: DataFileStatistics) -> None:
    """Sets the upper bound of each text column whose greatest value is longer than a bound may be.

    PyIceberg truncates the value and increments its last code point, but fails if the result is not a character
    (a surrogate, U+D800 to U+DFFF).
    """
    for column in statistics.column_aggregates.values():
        greatest, width = column.current_max, column.trunc_length
        if isinstance(greatest, str) and width is not None and len(greatest) > width:
            column.current_max = _successor(greatest[:width])


def _successor(text: str) -> str | None:
    """The least text that is greater than every text that begins with `text`, and no longer; None: none is."""
    prefix = text.rstrip(chr(sys.maxunicode))
    if not prefix:
        return None
    code_point = ord(prefix[-1]) + 1
    return prefix[:-1] + chr(0xE000 if code_point == 0xD800 else code_point)
