"""Finds the days that changed between two snapshots, by comparing their data files.

The comparison does not need the snapshots in between, which may have expired. The name of a file that a
compaction wrote includes the newest sequence number of its rows. So compacted old rows can be distinguished
from new rows.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING

from headrace.kernel.errors import CallError
from headrace.lake.metadata import StoredSnapshot, TableMetadata

if TYPE_CHECKING:
    from headrace.lake.reading.port import StoredTable

__all__ = ["COMPACTED", "day_field", "days_changed", "newest_sequence", "rows_per_day"]

COMPACTED = "compacted-"
_NAME = re.compile(rf"/{COMPACTED}(\d+)-[^/]*$")
_EPOCH = date(1970, 1, 1)


def day_field(metadata: TableMetadata, column: str, table: str) -> int:
    """The index, among the values of a partition, of the day of `column`.

    Raises:
        CallError: the table is not partitioned by that day.
    """
    return _field_index(
        metadata, (column, "day"), f"it is not partitioned by the day of {column!r}", f"table {table}"
    )


def newest_sequence(path: str, sequence: int) -> int:
    """The sequence number at which the newest row of a file was added to the table.

    Args:
        path: the file.
        sequence: the sequence number of the commit that added the file.
    """
    match = _NAME.search(path)
    return int(match.group(1)) if match else sequence


def days_changed(
    table: StoredTable, name: str, column: str, since: int | None, until: int, where: Mapping[str, object]
) -> set[date] | None:
    """See LakeTable.days_changed."""
    field = day_field(table.metadata, column, name)
    values = _partition_values(table.metadata, where, name)
    new, old = table.metadata.snapshot(until), table.metadata.snapshot(since)
    if new is None or old is None or not _is_ancestor(table.metadata, old, new):
        return None
    before = {file.path: file for file in table.files(old.snapshot_id, unless_in=until)}
    after = {file.path: file for file in table.files(until, unless_in=old.snapshot_id)}
    rows: dict[int, int] = defaultdict(int)
    days: set[int] = set()
    for path in before.keys() ^ after.keys():
        file = after.get(path) or before[path]
        day = file.partition[field]
        if day is None or any(file.partition[i] != value for i, value in values.items()):
            continue
        if path in after and newest_sequence(path, file.sequence) > old.sequence_number:
            days.add(day)
        rows[day] += file.rows * (1 if path in after else -1)
    # Without newer rows, a day has changed only by losing rows: a compaction keeps their number.
    days |= {day for day, balance in rows.items() if balance}
    return {_EPOCH + timedelta(days=day) for day in days}


def rows_per_day(
    table: StoredTable, name: str, column: str, snapshot: int, where: Mapping[str, object]
) -> dict[date, int]:
    """See LakeTable.rows_per_day."""
    field = day_field(table.metadata, column, name)
    values = _partition_values(table.metadata, where, name)
    rows: dict[int, int] = defaultdict(int)
    for file in table.files(snapshot):
        day = file.partition[field]
        if day is not None and all(file.partition[i] == value for i, value in values.items()):
            rows[day] += file.rows
    return {_EPOCH + timedelta(days=day): rows[day] for day in sorted(rows)}


def _partition_values(metadata: TableMetadata, where: Mapping[str, object], table: str) -> dict[int, object]:
    """Index of an identity partition field → the value to search for."""
    return {
        _field_index(
            metadata, (column, "identity"), f"it is not partitioned by {column!r}", f"table {table}"
        ): value
        for column, value in where.items()
    }


def _field_index(metadata: TableMetadata, field: tuple[str, str], error: str, where: str) -> int:
    """The index, among a partition's values, of the field (column, transform). Raises CallError."""
    fields = metadata.partition_by()
    if field not in fields:
        raise CallError(error, where=where)
    return fields.index(field)


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
