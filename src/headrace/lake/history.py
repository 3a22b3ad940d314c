"""Finds the snapshot that was current at a moment.

Iceberg's snapshot log names the snapshots that were current, with their times. An expired snapshot is removed
from it without a trace, so the entry before it would seem to be in force for longer. Sequence numbers show such
a gap, because each commit takes the next one.
"""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

from headrace.kernel.errors import CallError
from headrace.kernel.time import from_micros, micros
from headrace.lake.metadata import StoredSnapshot, TableMetadata
from headrace.lake.tag_names import tags_of

__all__ = ["snapshot_at"]


def snapshot_at(metadata: TableMetadata, moment: datetime, table: str) -> StoredSnapshot:
    """The snapshot that was current at the moment.

    Args:
        metadata: the table's metadata.
        moment: an aware datetime; Iceberg's times are whole milliseconds.
        table: the table's name, for errors.

    Raises:
        CallError: the moment has no time zone, the table had no rows yet, or its snapshot of that moment has
            expired.
    """
    where = f"table {table}"
    if moment.tzinfo is None:
        raise CallError(
            f"{moment} has no time zone", where=where, remedy="Give it one: datetime(..., tzinfo=UTC)."
        )
    at = micros(moment) // 1000
    ordered = metadata.ordered_snapshots()
    committed = [snapshot for snapshot in ordered if snapshot.timestamp_ms <= at]
    if not committed and (not ordered or ordered[0].sequence_number == 1):
        raise CallError(f"the table had no rows yet at {moment}", where=where, remedy=_describe_first(ordered))
    entries = [entry for entry in metadata.snapshot_log if entry.timestamp_ms <= at]
    snapshot = metadata.snapshot(entries[-1].snapshot_id) if entries else None
    if snapshot is None or not _is_followed_directly(committed[-1], ordered):
        raise CallError(
            f"the table's snapshot of {moment} has expired",
            where=where,
            remedy="Snapshots expire unless they are tagged. The table's tags are: "
            + (", ".join(sorted(tags_of(metadata))) or "none")
            + f". headrace table-versions {table} lists its snapshots.",
        )
    return snapshot


def _is_followed_directly(last: StoredSnapshot, ordered: list[StoredSnapshot]) -> bool:
    """Whether no snapshot that was current between this one and the next that is left has expired."""
    for snapshot, successor in pairwise(ordered):
        if snapshot is last:
            # Without a parent, the successor was made after a rollback to a snapshot that has expired.
            return (
                successor.sequence_number == last.sequence_number + 1
                and successor.parent_snapshot_id is not None
            )
    return True


def _describe_first(ordered: list[StoredSnapshot]) -> str:
    if not ordered:
        return "headrace build makes it."
    return f"Its first snapshot is of {from_micros(ordered[0].timestamp_ms * 1000)}."
