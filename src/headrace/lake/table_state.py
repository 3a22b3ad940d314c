"""The current state of tables, read from metadata alone.

The embedded catalog is read without PyIceberg, whose import takes 1.6 s: it is a SQLite table that names each
Iceberg table's metadata file, and that file is JSON. Iceberg defines both layouts: the Java JDBC catalog, and
the table specification. Any other catalog is read through PyIceberg.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from headrace.config.settings import Settings
from headrace.kernel.addresses import path_of
from headrace.kernel.errors import Unavailable
from headrace.kernel.properties import ROWS_OF
from headrace.kernel.time import from_micros
from headrace.lake.home import is_home

if TYPE_CHECKING:
    from headrace.lake.table import LakeTable

__all__ = [
    "TableState",
    "current_snapshot_ids",
    "find_missing_snapshots",
    "read_table_states",
    "rows_snapshot_ids",
]

_BUSY_SECONDS = 15


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


def read_table_states(settings: Settings) -> dict[str, TableState]:
    """Reads the current state of every table of the project: table → state.

    Raises:
        Unavailable: the catalog is locked or cannot be reached.
    """
    if _is_embedded(settings):
        files = _metadata_files(settings)
        return {name: _parse_metadata(file) for name, file in sorted(files.items())}
    from headrace.lake.lake import open as open_lake

    lake = open_lake(settings)
    return {name: _state_of(lake.table(name)) for name in lake.list_tables()}


def current_snapshot_ids(settings: Settings, tables: Iterable[str]) -> dict[str, int | None]:
    """Table → the id of its newest snapshot; None if the table or a snapshot does not exist.

    Raises:
        Unavailable: the catalog is locked or cannot be reached.
    """
    return {name: state.snapshot for name, state in _read_states(settings, tables).items()}


def rows_snapshot_ids(settings: Settings, tables: Iterable[str]) -> dict[str, int | None]:
    """Table → the id of the snapshot that wrote its current rows; None as for `current_snapshot_ids`.

    Raises:
        Unavailable: the catalog is locked or cannot be reached.
    """
    return {name: state.rows_snapshot for name, state in _read_states(settings, tables).items()}


def find_missing_snapshots(settings: Settings, snapshots: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
    """Finds the snapshots (table, snapshot id) that the lake does not have, or no longer has.

    Raises:
        Unavailable: the catalog is locked or cannot be reached.
    """
    wanted = set(snapshots)
    states = _read_states(settings, {table for table, _ in wanted})
    return {(table, snapshot) for table, snapshot in wanted if snapshot not in states[table].snapshots}


def _read_states(settings: Settings, tables: Iterable[str]) -> dict[str, TableState]:
    names = sorted(tables)
    if _is_embedded(settings):
        files = _metadata_files(settings)
        return {name: _parse_metadata(files[name]) if name in files else _MISSING for name in names}
    from headrace.lake.lake import open as open_lake

    lake = open_lake(settings)
    existing = set(lake.list_tables())
    return {name: _state_of(lake.table(name)) if name in existing else _MISSING for name in names}


def _is_embedded(settings: Settings) -> bool:
    return settings.lake.catalog == "sqlite" and settings.lake.warehouse == "file"


def _metadata_files(settings: Settings) -> dict[str, str]:
    """Table → its metadata file, according to the embedded catalog."""
    path = path_of(settings.lake.catalog_url)
    if not path.is_file():
        return {}
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS)) as connection:
            if not is_home(connection, path.parent):  # opening the lake rewrites its paths
                from headrace.lake.lake import open as open_lake

                open_lake(settings)
            return dict(
                connection.execute(
                    "SELECT table_name, metadata_location FROM iceberg_tables WHERE table_namespace = ?",
                    [settings.project],
                )
            )
    except sqlite3.Error as error:
        if "no such table" in str(error):  # the catalog was created a moment ago
            return {}
        raise Unavailable(f"the catalog cannot be read: {error}", where=str(path)) from error


def _parse_metadata(file: str) -> TableState:
    metadata: dict[str, Any] = json.loads(Path(file).read_bytes())
    snapshots = {snapshot["snapshot-id"]: snapshot for snapshot in metadata.get("snapshots", ())}
    properties = metadata.get("properties", {})
    current = snapshots.get(metadata.get("current-snapshot-id"))
    if current is None:
        return TableState(None, None, 0, None, properties, frozenset(snapshots))
    at = from_micros(current["timestamp-ms"] * 1000)
    return _state(current["snapshot-id"], current.get("summary", {}), at, properties, snapshots)


def _state_of(table: LakeTable) -> TableState:
    current = table.current_snapshot()
    snapshots = [snapshot.id for snapshot in table.snapshots()]
    properties = dict(table.iceberg().properties)
    if current is None:
        return TableState(None, None, 0, None, properties, frozenset(snapshots))
    return _state(current.id, current.summary, current.at, properties, snapshots)


def _state(
    snapshot: int,
    summary: Mapping[str, str],
    at: datetime,
    properties: dict[str, str],
    snapshots: Iterable[int],
) -> TableState:
    rows_snapshot, rows = int(summary.get(ROWS_OF, snapshot)), int(summary.get("total-records", 0))
    return TableState(snapshot, rows_snapshot, rows, at, properties, frozenset(snapshots))
