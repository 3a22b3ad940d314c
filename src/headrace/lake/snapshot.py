"""Snapshot: one version of a table."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from msgspec import Struct

from headrace.kernel.errors import CallError
from headrace.kernel.time import from_micros
from headrace.lake.metadata import StoredSnapshot

if TYPE_CHECKING:
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot

__all__ = ["Snapshot", "newest_snapshot", "sequence_of", "snapshot_of", "summary_of"]

_OPERATION = "operation"


class Snapshot(Struct, frozen=True):
    """One version of a table.

    Attributes:
        id: Iceberg's snapshot id.
        at: when it was committed, in UTC.
        operation: `append`, `overwrite` or `delete`.
        summary: the facts committed with it (`headrace.*`) and Iceberg's own counts.
        parent: the snapshot before it; None for the first.
        rows: the number of rows of the table.
    """

    id: int
    at: datetime
    operation: str
    summary: dict[str, str]
    parent: int | None
    rows: int


def snapshot_of(stored: StoredSnapshot) -> Snapshot:
    """Converts a snapshot of the table's metadata."""
    return Snapshot(
        id=stored.snapshot_id,
        at=from_micros(stored.timestamp_ms * 1000),
        operation=stored.summary.get(_OPERATION, "append"),
        summary={name: value for name, value in stored.summary.items() if name != _OPERATION},
        parent=stored.parent_snapshot_id,
        rows=int(stored.summary.get("total-records", 0)),
    )


def summary_of(iceberg: IcebergSnapshot) -> dict[str, str]:
    """The facts and counts in the summary of PyIceberg's snapshot."""
    return {} if iceberg.summary is None else iceberg.summary.additional_properties


def sequence_of(iceberg: IcebergSnapshot) -> int:
    """The sequence number of PyIceberg's snapshot; 0 in table format 1, which has no sequence numbers."""
    return iceberg.sequence_number or 0


def newest_snapshot(table: Table) -> IcebergSnapshot:
    """The current snapshot of a table that has one.

    Raises:
        CallError: nothing was ever written to the table.
    """
    current = table.current_snapshot()
    if current is None:
        raise CallError("the table has no snapshot yet", where=f"table {table.name()[-1]}")
    return current
