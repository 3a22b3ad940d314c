"""Creates tables of the lake, and adds the columns that they lack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError, TableAlreadyExistsError
from pyiceberg.io import load_file_io
from pyiceberg.schema import Schema
from pyiceberg.table import Table

from headrace.kernel.errors import ProjectError, Unavailable
from headrace.kernel.ids import new_id
from headrace.lake.errors import name_errors
from headrace.lake.metadata import metadata_of
from headrace.lake.schema import PartitionBy, fits, grow, iceberg_schema, partition_spec

if TYPE_CHECKING:
    from headrace.lake.lake import Lake

__all__ = ["check_warehouse", "drop_table", "ensure"]

_TRIES = 20

# Properties of a new table; each keeps the cost of a small commit flat (bench/lake.py).
_PROPERTIES = {
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "40",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "write.parquet.compression-codec": "zstd",
}


def ensure(lake: Lake, name: str, schema: pa.Schema, partition_by: PartitionBy, *, exact: bool) -> None:
    """See Lake.ensure."""
    wanted = iceberg_schema(schema, name)
    with name_errors(lake.where, name):
        iceberg = _load_or_create(lake, name, wanted, partition_by)
        _check_partitions(iceberg, partition_by)
        for _ in range(_TRIES):
            if fits(iceberg.schema(), wanted, exact=exact):
                return
            try:
                with iceberg.update_schema() as update:
                    grow(update, iceberg.schema(), wanted, name, exact=exact)
            except CommitFailedException:
                iceberg = lake.catalog.load_table(iceberg.name())
    raise Unavailable(f"other writers kept changing table {name}", where=lake.where, remedy="Try again.")


def drop_table(lake: Lake, name: str) -> None:
    """See Lake.drop_table."""
    with name_errors(lake.where, name):
        lake.catalog.drop_table((lake.namespace, name))


def check_warehouse(lake: Lake, url: str) -> None:
    """See Lake.check_warehouse."""
    place = f"{url.rstrip('/')}/headrace-doctor-{new_id()}"
    with name_errors(url):
        io = load_file_io(lake.catalog.properties, place)
        with io.new_output(place).create() as stream:
            stream.write(b"ok")
        with io.new_input(place).open() as stream:
            stream.read()
        io.delete(place)


def _load_or_create(lake: Lake, name: str, schema: Schema, partition_by: PartitionBy) -> Table:
    identifier = (lake.namespace, name)
    try:
        return lake.catalog.load_table(identifier)
    except NoSuchTableError:
        pass
    try:
        spec = partition_spec(schema, partition_by)
        return lake.catalog.create_table(identifier, schema=schema, partition_spec=spec, properties=_PROPERTIES)
    except TableAlreadyExistsError:  # another process was faster
        return lake.catalog.load_table(identifier)


def _check_partitions(table: Table, partition_by: PartitionBy) -> None:
    stored = metadata_of(table).partition_by()
    if partition_by and tuple(partition_by) != stored:
        raise ProjectError(
            f"it is partitioned by {stored}, not by {tuple(partition_by)}",
            where=f"table {table.name()[-1]}",
            remedy="Give the table another name, or drop it and create it again.",
        )
