"""The current state of tables, read from metadata alone."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from msgspec import Struct

from headrace.kernel.properties import ROWS_OF
from headrace.lake.file_errors import name_file_errors
from headrace.lake.metadata import TableMetadata
from headrace.lake.snapshot import snapshot_of

if TYPE_CHECKING:
    from headrace.lake.lake import Lake

__all__ = [
    "TableState",
    "current_snapshot_ids",
    "find_missing_snapshots",
    "read_table_states",
    "rows_snapshot_ids",
]


class TableState(Struct, frozen=True):
    """The current state of a table.

    Attributes:
        snapshot: the id of its newest snapshot; None if nothing was ever written.
        rows_snapshot: the id of the snapshot that wrote its current rows. Maintenance makes newer snapshots of
            the same rows.
        rows: how many rows it has.
        at: when the newest snapshot was committed, in UTC.
        properties: the table's properties.
        snapshots: the ids of the snapshots that have not expired.
    """

    snapshot: int | None
    rows_snapshot: int | None
    rows: int
    at: datetime | None
    properties: dict[str, str]
    snapshots: frozenset[int]


_MISSING = TableState(None, None, 0, None, {}, frozenset())


def read_table_states(lake: Lake, tables: Iterable[str] | None = None) -> dict[str, TableState]:
    """Reads the current state of tables that exist: table → state, sorted by table.

    Args:
        lake: the lake.
        tables: their names; None: every table of the lake.

    Raises:
        Unavailable: the catalog is locked or cannot be reached.
    """
    return _read_states(lake, lake.list_tables() if tables is None else sorted(tables))


def current_snapshot_ids(lake: Lake, tables: Iterable[str]) -> dict[str, int | None]:
    """Table → the id of its newest snapshot; None if the table or a snapshot does not exist.

    Raises:
        Unavailable: the catalog is locked or cannot be reached.
    """
    names = sorted(tables)
    states = _read_states(lake, names)
    return {name: states.get(name, _MISSING).snapshot for name in names}


def rows_snapshot_ids(lake: Lake, tables: Iterable[str]) -> dict[str, int | None]:
    """Table → the id of the snapshot that wrote its current rows; None as for `current_snapshot_ids`.

    Raises:
        Unavailable: the catalog is locked or cannot be reached.
    """
    names = sorted(tables)
    states = _read_states(lake, names)
    return {name: states.get(name, _MISSING).rows_snapshot for name in names}


def find_missing_snapshots(lake: Lake, snapshots: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
    """Finds the snapshots (table, snapshot id) that the lake does not have, or no longer has.

    Raises:
        Unavailable: the catalog is locked or cannot be reached.
    """
    wanted = set(snapshots)
    states = _read_states(lake, {table for table, _ in wanted})
    return {
        (table, snapshot) for table, snapshot in wanted if snapshot not in states.get(table, _MISSING).snapshots
    }


def _read_states(lake: Lake, names: Iterable[str]) -> dict[str, TableState]:
    """The states of the tables that exist."""
    with name_file_errors(lake.where):
        tables = {name: lake.reader.find(name) for name in names}
    return {name: _state_of(table.metadata) for name, table in tables.items() if table is not None}


def _state_of(metadata: TableMetadata) -> TableState:
    ids = frozenset(snapshot.snapshot_id for snapshot in metadata.snapshots)
    current = metadata.current_snapshot()
    if current is None:
        return TableState(None, None, 0, None, metadata.properties, ids)
    snapshot = snapshot_of(current)
    rows_snapshot = int(snapshot.summary.get(ROWS_OF, snapshot.id))
    return TableState(snapshot.id, rows_snapshot, snapshot.rows, snapshot.at, metadata.properties, ids)
