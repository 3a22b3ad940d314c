"""Tables as datasets of runs, with their columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.kernel.position import SnapshotPosition
from headrace.kernel.run import Dataset

if TYPE_CHECKING:
    import pyarrow as pa

    from headrace.lake.lake import Lake
    from headrace.lake.snapshot import Snapshot

__all__ = ["find_dataset", "table_dataset"]


def table_dataset(name: str, schema: pa.Schema, snapshot: Snapshot | None = None, **facts: Any) -> Dataset:
    """The table with its columns; with a snapshot, at that position and with its number of rows."""
    facts = {"schema": {column.name: str(column.type) for column in schema}, **facts}
    if snapshot is None:
        return Dataset("table", name, facts=facts)
    return Dataset("table", name, SnapshotPosition(name, snapshot.id), {"rows": snapshot.rows, **facts})


def find_dataset(lake: Lake, name: str) -> list[Dataset]:
    """The table with its present columns and no position; an empty list if it does not exist yet.

    For `writes` of a run. A table that does not exist yet is left out, because its columns are not known.
    """
    return [table_dataset(name, lake.table(name).schema())] if lake.table_exists(name) else []
