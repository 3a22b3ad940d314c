"""Finds what changed between two snapshots, by comparing their data files.

The comparison does not need the snapshots in between, which may have expired. The name of a file that a
compaction wrote includes the newest sequence number of its rows. So compacted old rows can be distinguished
from new rows.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from headrace.kernel.errors import CallError
from headrace.lake.metadata import StoredSnapshot, TableMetadata

if TYPE_CHECKING:
    from headrace.lake.reading.port import StoredFile, StoredTable

__all__ = [
    "COMPACTED",
    "PartitionColumn",
    "files_changed",
    "newest_sequence",
    "partition_index",
    "partitions_changed",
    "rows_per_partition",
]

COMPACTED = "compacted-"
_NAME = re.compile(rf"/{COMPACTED}(\d+)-[^/]*$")

PartitionColumn: TypeAlias = tuple[str, str]
"""A column and Iceberg's transform of it, such as ("at", "day")."""


def newest_sequence(path: str, sequence: int) -> int:
    """The sequence number at which the newest row of a file was added to the table.

    Args:
        path: the file.
        sequence: the sequence number of the commit that added the file.
    """
    match = _NAME.search(path)
    return int(match.group(1)) if match else sequence


def partitions_changed(
    table: StoredTable,
    name: str,
    by: PartitionColumn,
    since: int | None,
    until: int,
    where: Mapping[str, object],
) -> set[int] | None:
    """See LakeTable.partitions_changed."""
    changed = files_changed(table, since, until)
    old = table.metadata.snapshot(since)
    if changed is None or old is None:
        return None
    removed, added = changed
    if any(by not in table.metadata.partition_by(file.spec) for file in removed):
        return None
    values = _Partitions(table.metadata, name, by, where)
    rows: dict[int, int] = defaultdict(int)
    partitions: set[int] = set()
    for sign, files in ((-1, removed), (1, added)):
        for file in files:
            number = values.number(file)
            if number is None:
                continue
            if sign > 0 and newest_sequence(file.path, file.sequence) > old.sequence_number:
                partitions.add(number)
            rows[number] += sign * file.rows
    # Without newer rows, a partition has changed only by losing rows: a compaction keeps their number.
    return partitions | {number for number, balance in rows.items() if balance}


def files_changed(
    table: StoredTable, since: int | None, until: int
) -> tuple[list[StoredFile], list[StoredFile]] | None:
    """The files of `since` that `until` lacks, and those that it has more. See LakeTable.partitions_changed."""
    new, old = table.metadata.snapshot(until), table.metadata.snapshot(since)
    if new is None or old is None or not _is_ancestor(table.metadata, old, new):
        return None
    before = {file.path: file for file in table.files(old.snapshot_id, unless_in=until)}
    after = {file.path: file for file in table.files(until, unless_in=old.snapshot_id)}
    removed = [file for path, file in before.items() if path not in after]
    return removed, [file for path, file in after.items() if path not in before]


def rows_per_partition(
    table: StoredTable, name: str, by: PartitionColumn, snapshot: int, where: Mapping[str, object]
) -> dict[int, int]:
    """See LakeTable.rows_per_partition."""
    values = _Partitions(table.metadata, name, by, where)
    rows: dict[int, int] = defaultdict(int)
    for file in table.files(snapshot):
        number = values.number(file)
        if number is not None:
            rows[number] += file.rows
    return {number: rows[number] for number in sorted(rows)}


class _Partitions:
    """Finds the partitions of files.

    Args:
        metadata: the table's metadata.
        table: its name, for errors.
        by: the column of the partition, with its transform.
        where: values of identity partition columns; files with other values have no number.
    """

    def __init__(
        self, metadata: TableMetadata, table: str, by: PartitionColumn, where: Mapping[str, object]
    ) -> None:
        self._metadata, self._table, self._by, self._where = metadata, table, by, where
        self._indexes: dict[int, tuple[int, dict[int, object]]] = {}
        self._find(metadata.default_spec_id)  # raises CallError, also if there is no file

    def number(self, file: StoredFile) -> int | None:
        """The number of the file's partition; None if it has none, or is not to be counted.

        Raises:
            CallError: the table, or the file, is not partitioned so.
        """
        index, values = self._find(file.spec)
        if any(file.partition[i] != value for i, value in values.items()):
            return None
        number: int | None = file.partition[index]
        return number

    def _find(self, spec: int) -> tuple[int, dict[int, object]]:
        if spec not in self._indexes:
            values = {
                partition_index(self._metadata, (column, "identity"), self._table, spec): value
                for column, value in self._where.items()
            }
            self._indexes[spec] = partition_index(self._metadata, self._by, self._table, spec), values
        return self._indexes[spec]


def partition_index(metadata: TableMetadata, by: PartitionColumn, table: str, spec: int | None = None) -> int:
    """The index, among the values of a partition, of a column with its transform.

    Args:
        metadata: the table's metadata.
        by: the column and the transform.
        table: the table's name, for the error.
        spec: the id of the partition spec; by default the current one.

    Raises:
        CallError: the table is not partitioned so.
    """
    fields = metadata.partition_by(spec)
    if by not in fields:
        column, transform = by
        kind = f"{column!r}" if transform == "identity" else f"the {transform} of {column!r}"
        raise CallError(f"it is not partitioned by {kind}", where=f"table {table}")
    return fields.index(by)


def _is_ancestor(metadata: TableMetadata, old: StoredSnapshot, new: StoredSnapshot) -> bool:
    """Whether `new` descends from `old`. If snapshots in between have expired, their order decides."""
    current = new
    while current.snapshot_id != old.snapshot_id:
        if current.parent_snapshot_id is None:
            return current.sequence_number > max(old.sequence_number, 1)
        parent = metadata.snapshot(current.parent_snapshot_id)
        if parent is None:
            return current.sequence_number > old.sequence_number
        current = parent
    return True
