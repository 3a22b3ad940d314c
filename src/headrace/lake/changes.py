"""Which days changed between two snapshots, told from their files alone.

Comparing the two sets of live files needs none of the snapshots in between: those may have expired.
A file made by compaction carries in its name the newest sequence number of the rows in it; so a
compaction of old rows is told from new rows.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any

from pyiceberg.manifest import DataFile, ManifestEntry
from pyiceberg.transforms import DayTransform, IdentityTransform

from headrace.kernel.errors import CallError

__all__ = ["COMPACTED", "age", "day_field", "days_changed", "live_entries", "live_files", "rows_per_day"]

COMPACTED = "compacted-"
_NAME = re.compile(rf"/{COMPACTED}(\d+)-[^/]*$")
_EPOCH = date(1970, 1, 1)


def day_field(table: Any, column: str) -> int:
    """Where in a partition's values the day of `column` stands.

    Raises:
        CallError: the table is not partitioned by it.
    """
    for place, field in enumerate(table.spec().fields):
        if isinstance(field.transform, DayTransform) and _source(table, field) == column:
            return place
    raise CallError(f"it is not partitioned by the day of {column!r}", where=f"table {table.name()[-1]}")


def _source(table: Any, field: Any) -> str:
    return str(table.schema().find_column_name(field.source_id))


def live_entries(table: Any, snapshot: Any, without: frozenset[str] = frozenset()) -> Iterator[ManifestEntry]:
    """The entries of the data files of a snapshot, but those of the manifests named in `without`."""
    for manifest in snapshot.manifests(table.io):
        if manifest.manifest_path not in without:
            yield from manifest.fetch_manifest_entry(table.io, discard_deleted=True)


def live_files(table: Any, snapshot: Any) -> Iterator[DataFile]:
    """The data files of a snapshot."""
    return (entry.data_file for entry in live_entries(table, snapshot))


def age(entry: ManifestEntry) -> int:
    """The sequence number at which the newest row of a file came into the table."""
    match = _NAME.search(entry.data_file.file_path)
    return int(match.group(1)) if match else int(entry.sequence_number)


def days_changed(
    table: Any, column: str, since: int | None, until: int, where: Mapping[str, object]
) -> set[date] | None:
    """See LakeTable.days_changed."""
    place = day_field(table, column)
    wanted = {_identity_field(table, name): value for name, value in where.items()}
    new = table.snapshot_by_id(until)
    old = None if since is None else table.snapshot_by_id(since)
    if old is None or not _descends(table, new, old):
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
        day = partition[place]
        if day is None or any(partition[i] != value for i, value in wanted.items()):
            continue
        if path in after and age(entry) > old.sequence_number:
            days.add(day)
        rows[day] += entry.data_file.record_count * (1 if path in after else -1)
    # Without newer rows, a day has changed only by losing some: a compaction keeps their number.
    days |= {day for day, balance in rows.items() if balance}
    return {_EPOCH + timedelta(days=day) for day in days}


def rows_per_day(table: Any, column: str, snapshot: int, where: Mapping[str, object]) -> dict[date, int]:
    """See LakeTable.days."""
    place = day_field(table, column)
    wanted = {_identity_field(table, name): value for name, value in where.items()}
    rows: dict[int, int] = defaultdict(int)
    for data_file in live_files(table, table.snapshot_by_id(snapshot)):
        partition = data_file.partition
        if partition[place] is not None and all(partition[i] == value for i, value in wanted.items()):
            rows[partition[place]] += data_file.record_count
    return {_EPOCH + timedelta(days=day): rows[day] for day in sorted(rows)}


def _identity_field(table: Any, column: str) -> int:
    for place, field in enumerate(table.spec().fields):
        if isinstance(field.transform, IdentityTransform) and _source(table, field) == column:
            return place
    raise CallError(f"it is not partitioned by {column!r}", where=f"table {table.name()[-1]}")


def _descends(table: Any, new: Any, old: Any) -> bool:
    """Whether `old` is an ancestor of `new`. Where the line in between has expired, order decides."""
    this = new
    while this is not None and this.snapshot_id != old.snapshot_id:
        if this.parent_snapshot_id is None:
            return bool(this.sequence_number > old.sequence_number and this.sequence_number > 1)
        parent = table.snapshot_by_id(this.parent_snapshot_id)
        if parent is None:
            return bool(this.sequence_number > old.sequence_number)
        this = parent
    return this is not None
