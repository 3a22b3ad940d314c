"""Creates tables of the lake, and adds the columns that they lack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError, TableAlreadyExistsError
from pyiceberg.io import load_file_io
from pyiceberg.schema import Schema
from pyiceberg.table import Table, Transaction
from pyiceberg.transforms import parse_transform

from headrace.kernel.errors import ProjectError, Unavailable
from headrace.kernel.ids import new_id
from headrace.lake.errors import name_errors
from headrace.lake.metadata import metadata_of
from headrace.lake.schema import (
    PartitionBy,
    fits,
    grow,
    iceberg_schema,
    partition_name,
    partition_spec,
    reorder,
)

if TYPE_CHECKING:
    from headrace.lake.lake import Lake

__all__ = ["check_warehouse", "drop_table", "ensure", "rename_columns"]

_TRIES = 20

# Properties of a new table; each keeps the cost of a small commit flat (bench/lake.py).
_PROPERTIES = {
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "40",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "write.parquet.compression-codec": "zstd",
}


def ensure(lake: Lake, name: str, schema: pa.Schema, partition_by: PartitionBy | None, *, exact: bool) -> None:
    """See Lake.ensure."""
    wanted = iceberg_schema(schema, name)
    with name_errors(lake.where, name):
        iceberg = _load_or_create(lake, name, wanted, partition_by or ())
        for _ in range(_TRIES):
            is_moved = _is_repartitioned(iceberg, partition_by, exact=exact)
            if not is_moved and fits(iceberg.schema(), wanted, exact=exact):
                return
            try:
                with iceberg.transaction() as change:
                    if is_moved:
                        _remove_partitions(change, iceberg)
                    with change.update_schema(allow_incompatible_changes=exact) as update:
                        grow(update, iceberg.schema(), wanted, name, exact=exact)
                    if exact:
                        with change.update_schema() as update:
                            reorder(update, change.table_metadata.schema(), wanted)
                    if is_moved:
                        _add_partitions(change, partition_by or ())
            except CommitFailedException:
                iceberg = lake.catalog.load_table(iceberg.name())
            else:
                return
    raise _too_many_writers(lake, name)


def _too_many_writers(lake: Lake, name: str) -> Unavailable:
    return Unavailable(f"other writers kept changing table {name}", where=lake.where, remedy="Try again.")


def rename_columns(lake: Lake, name: str, renames: Mapping[str, str]) -> None:
    """See Lake.rename_columns."""
    with name_errors(lake.where, name):
        for _ in range(_TRIES):
            iceberg = lake.catalog.load_table((lake.namespace, name))
            stored = {field.name for field in iceberg.schema().fields}
            pending = {old: new for old, new in renames.items() if old in stored and new not in stored}
            if not pending:
                return
            try:
                with iceberg.update_schema() as update:
                    for old, new in pending.items():
                        update.rename_column(old, new)
            except CommitFailedException:
                continue
            return
    raise _too_many_writers(lake, name)


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
        return lake.catalog.create_table(
            identifier,
            schema=schema,
            location=_new_location(lake, name),
            partition_spec=spec,
            properties=_PROPERTIES,
        )
    except TableAlreadyExistsError:  # another process was faster
        return lake.catalog.load_table(identifier)


def _new_location(lake: Lake, name: str) -> str | None:
    """A folder for a new table that no other catalog uses; None: the catalog chooses one.

    An SQLite catalog chooses by the table's name. In a bucket that two clones of a project use with a catalog
    each, their tables would have one folder, and the maintenance of one would delete the files of the other.
    """
    properties = lake.catalog.properties
    warehouse = properties.get("warehouse", "").rstrip("/")
    if properties.get("type") != "sql" or warehouse.startswith(f"{lake.folder}/"):
        return None
    return f"{warehouse}/{lake.namespace}/{name}-{new_id()[-12:]}"


def _is_repartitioned(table: Table, partition_by: PartitionBy | None, *, exact: bool) -> bool:
    """Whether the table is to get other partitions. Raises ProjectError unless `exact`."""
    stored = metadata_of(table).partition_by()
    if partition_by is None or tuple(partition_by) == stored:
        return False
    if not exact:
        raise ProjectError(
            f"it is partitioned by {stored}, not by {tuple(partition_by)}",
            where=f"table {table.name()[-1]}",
            remedy="Give the table another name, or drop it and create it again.",
        )
    return True


def _remove_partitions(change: Transaction, table: Table) -> None:
    if table.spec().fields:
        with change.update_spec() as update:
            for field in table.spec().fields:
                update.remove_field(field.name)


def _add_partitions(change: Transaction, partition_by: PartitionBy) -> None:
    if partition_by:
        with change.update_spec() as update:
            for column, transform in partition_by:
                update.add_field(column, parse_transform(transform), partition_name(column, transform))
