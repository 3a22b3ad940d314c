"""The position up to which a topic's table has read the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.kernel.position import LogPosition

if TYPE_CHECKING:
    from headrace.lake import LakeTable

__all__ = ["READER", "read_position"]

READER = "ingest"
"""The name under which a topic's table stores ingest's position (LakeTable.position)."""


def read_position(table: LakeTable) -> LogPosition | None:
    """How far the topic's table has read the log; None before its first commit."""
    position = table.position(READER)
    return position if isinstance(position, LogPosition) else None
