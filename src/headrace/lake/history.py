"""Finds the snapshot that was current at a moment.

Iceberg's snapshot log names the snapshots that were current, with their times. An expired snapshot is removed
from it without a trace, so the entry before it would seem to be in force for longer. Sequence numbers show such
a gap, because each commit takes the next one.
"""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot

from headrace.kernel.errors import CallError
from headrace.kernel.time import from_micros, micros
from headrace.lake.snapshot import sequence_of

__all__ = ["snapshot_at"]


def snapshot_at(table: Table, moment: datetime) -> IcebergSnapshot:
    """The snapshot that was current at the moment.

    Args:
        table: PyIceberg's table.
        moment: an aware datetime; Iceberg's times are whole milliseconds.

    Raises:
        CallError: the moment has no time zone, the table had no rows yet, or its snapshot of that moment has
            expired.
    """
    where = f"table {table.name()[-1]}"
    if moment.tzinfo is None:
        raise CallError(
            f"{moment} has no time zone", where=where, remedy="Give it one: datetime(..., tzinfo=UTC)."
        )
    at = micros(moment) // 1000
    ordered = sorted(table.metadata.snapshots, key=sequence_of)
    committed = [snapshot for snapshot in ordered if snapshot.timestamp_ms <= at]
    if not committed and (not ordered or sequence_of(ordered[0]) == 1):
        raise CallError(f"the table had no rows yet at {moment}", where=where, remedy=_describe_first(ordered))
    entries = [entry for entry in table.history() if entry.timestamp_ms <= at]
    snapshot = table.snapshot_by_id(entries[-1].snapshot_id) if entries else None
    if snapshot is None or not _is_followed_directly(committed[-1], ordered):
        raise CallError(
            f"the table's snapshot of {moment} has expired",
            where=where,
            remedy="Snapshots expire unless they are tagged: read a tag, or another moment.",
        )
    return snapshot


def _is_followed_directly(last: IcebergSnapshot, ordered: list[IcebergSnapshot]) -> bool:
    """Whether no snapshot that was current between this one and the next that is left has expired."""
    for snapshot, successor in pairwise(ordered):
        if snapshot is last:
            # Without a parent, the successor was made after a rollback to a snapshot that has expired.
            return sequence_of(successor) == sequence_of(last) + 1 and successor.parent_snapshot_id is not None
    return True


def _describe_first(ordered: list[IcebergSnapshot]) -> str:
    if not ordered:
        return "headrace build makes it."
    return f"Its first snapshot is of {from_micros(ordered[0].timestamp_ms * 1000)}."
