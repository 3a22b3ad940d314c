"""Finds the days that changed between two snapshots, by comparing their data files.

The comparison does not need the snapshots in between, which may have expired. The name of a file that a
compaction wrote includes the newest sequence number of its rows. So compacted old rows can be distinguished
from new rows.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any

from pyiceberg.manifest import DataFile, ManifestEntry
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot
from pyiceberg.transforms import DayTransform, IdentityTransform

from headrace.kernel.errors import CallError
from headrace.lake.snapshot import sequence_of

__all__ = [
    "COMPACTED",
    "day_field",
    "days_changed",
    "live_entries",
    "live_files",
    "newest_sequence",
    "rows_per_day",
]

COMPACTED = "compacted-"
_NAME = re.compile(rf"/{COMPACTED}(\d+)-[^/]*$")
_EPOCH = date(1970, 1, 1)


def day_field(table: Table, column: str) -> int:
    """The index, among the values of a partition, of the day of `column`.

    Raises:
        CallError: the table is not partitioned by that day.
    """
    index = _field_index(table, column, DayTransform)
    if index is None:
        raise CallError(f"it is not partitioned by the day of {column!r}", where=f"table {table.name()[-1]}")
    return index


def live_entries(
    table: Table, snapshot: IcebergSnapshot, without: frozenset[str] = frozenset()
) -> Iterator[ManifestEntry]:
    """The entries of a snapshot's data files, except those in the manifests named in `without`."""
    for manifest in snapshot.manifests(table.io):
        if manifest.manifest_path not in without:
            yield from manifest.fetch_manifest_entry(table.io, discard_deleted=True)


def live_files(table: Table, snapshot: IcebergSnapshot) -> Iterator[DataFile]:
    """The data files of a snapshot."""
    return (entry.data_file for entry in live_entries(table, snapshot))


def newest_sequence(entry: ManifestEntry) -> int:
    """The sequence number at which the newest row of a file was added to the table."""
    match = _NAME.search(entry.data_file.file_path)
    return int(match.group(1)) if match else entry.sequence_number or 0


def days_changed(
    table: Table, column: str, since: int | None, until: int, where: Mapping[str, object]
) -> set[date] | None:
    """See LakeTable.days_changed."""
    field = day_field(table, column)
    values = _partition_values(table, where)
    new = table.snapshot_by_id(until)
    old = None if since is None else table.snapshot_by_id(since)
    if new is None or old is None or not _is_ancestor(table, old, new):
        return None
    shared = frozenset(m.manifest_path for m in old.manifests(table.io)) & frozenset(
        m.manifest_path for m in new.manifests(table.io)
    )
    before = {e.data_file.file_path: e for e in live_entries(table, old, shared)}
    after = {e.data_file.file_path: e for e in live_entries(table, new, shared)}
    rows: dict[int, int] = defaultdict(int)
    days: set[int] = set()
    for path in before.keys() ^ after.keys():
        entry = after.get(path) or before[path]
        partition = entry.data_file.partition
        day = partition[field]
        if day is None or any(partition[i] != value for i, value in values.items()):
            continue
        if path in after and newest_sequence(entry) > sequence_of(old):
            days.add(day)
        rows[day] += entry.data_file.record_count * (1 if path in after else -1)
    # Without newer rows, a day has changed only by losing rows: a compaction keeps their number.
    days |= {day for day, balance in rows.items() if balance}
    return {_EPOCH + timedelta(days=day) for day in days}


def rows_per_day(table: Table, column: str, snapshot: int, where: Mapping[str, object]) -> dict[date, int]:
    """See LakeTable.rows_per_day."""
    field = day_field(table, column)
    values = _partition_values(table, where)
    rows: dict[int, int] = defaultdict(int)
    version = table.snapshot_by_id(snapshot)
    for data_file in () if version is None else live_files(table, version):
        partition = data_file.partition
        if partition[field] is not None and all(partition[i] == value for i, value in values.items()):
            rows[partition[field]] += data_file.record_count
    return {_EPOCH + timedelta(days=day): rows[day] for day in sorted(rows)}


def _partition_values(table: Table, where: Mapping[str, object]) -> dict[int, object]:
    """Index of an identity partition field → the value to search for."""
    values = {}
    for column, value in where.items():
        index = _field_index(table, column, IdentityTransform)
        if index is None:
            raise CallError(f"it is not partitioned by {column!r}", where=f"table {table.name()[-1]}")
        values[index] = value
    return values


def _field_index(
    table: Table, column: str, transform: type[DayTransform[Any] | IdentityTransform[Any]]
) -> int | None:
    """The index, among a partition's values, of the field with this transform of `column`; None: no field."""
    schema = table.schema()
    for index, field in enumerate(table.spec().fields):
        if isinstance(field.transform, transform) and schema.find_field(field.source_id).name == column:
            return index
    return None


def _is_ancestor(table: Table, old: IcebergSnapshot, new: IcebergSnapshot) -> bool:
    """Whether `new` descends from `old`. If snapshots in between have expired, their order decides."""
    current = new
    while current.snapshot_id != old.snapshot_id:
        if current.parent_snapshot_id is None:
            return sequence_of(current) > max(sequence_of(old), 1)
        parent = table.snapshot_by_id(current.parent_snapshot_id)
        if parent is None:
            return sequence_of(current) > sequence_of(old)
        current = parent
    return True
