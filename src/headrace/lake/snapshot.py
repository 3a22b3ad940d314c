"""Snapshot: one version of a table."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

__all__ = ["Snapshot", "snapshot_of"]


class Snapshot(Struct, frozen=True):
    """One version of a table.

    Attributes:
        id: Iceberg's snapshot id.
        at: when it was committed, in UTC.
        operation: `append`, `overwrite` or `delete`.
        summary: the facts committed with it (`headrace.*`) and Iceberg's own counts.
        parent: the snapshot it was made on; None for the first, or where the parent has expired.
        rows: how many rows the table has at it.
    """

    id: int
    at: datetime
    operation: str
    summary: dict[str, str]
    parent: int | None
    rows: int


def snapshot_of(iceberg: Any) -> Snapshot:
    """The Snapshot of a pyiceberg one."""
    summary = dict(iceberg.summary.additional_properties) if iceberg.summary is not None else {}
    return Snapshot(
        id=iceberg.snapshot_id,
        at=datetime.fromtimestamp(iceberg.timestamp_ms / 1000, UTC),
        operation=iceberg.summary.operation.value if iceberg.summary is not None else "append",
        summary=summary,
        parent=iceberg.parent_snapshot_id,
        rows=int(summary.get("total-records", 0)),
    )
