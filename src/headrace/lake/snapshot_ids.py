"""Snapshot ids of tables, read without PyIceberg, whose import takes 1.6 s.

The embedded catalog is one SQLite table that names each Iceberg table's metadata file, and that file is
JSON. Both layouts are Iceberg's: the Java JDBC catalog's and the table specification. Any other catalog is
read through PyIceberg.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from headrace.config.settings import Settings
from headrace.kernel.addresses import path_of
from headrace.kernel.errors import Unavailable
from headrace.kernel.properties import ROWS_OF
from headrace.lake.home import is_home

__all__ = ["current_snapshot_ids", "missing_snapshots", "rows_snapshot_ids"]

_BUSY_SECONDS = 15


def current_snapshot_ids(settings: Settings, tables: Iterable[str]) -> dict[str, int | None]:
    """Table → the id of its newest snapshot; None where the table or a snapshot does not exist.

    Raises:
        Unavailable: the catalog is locked or away.
    """
    return {name: table.current for name, table in _read_tables(settings, tables).items()}


def rows_snapshot_ids(settings: Settings, tables: Iterable[str]) -> dict[str, int | None]:
    """Table → the id of the snapshot that wrote its present rows; None as for `current_snapshot_ids`.

    Maintenance makes newer snapshots of the same rows.

    Raises:
        Unavailable: the catalog is locked or away.
    """
    return {name: table.rows for name, table in _read_tables(settings, tables).items()}


def missing_snapshots(settings: Settings, snapshots: Mapping[str, int]) -> set[str]:
    """The tables, of those given (table → snapshot id), that do not have that snapshot.

    Raises:
        Unavailable: the catalog is locked or away.
    """
    tables = _read_tables(settings, snapshots)
    return {name for name, snapshot in snapshots.items() if snapshot not in tables[name].snapshots}


class _Ids:
    """The snapshot ids of one table: the newest, the one that wrote the rows, and all that have not expired."""

    def __init__(self, current: int | None, summaries: Mapping[int, Mapping[str, str]]) -> None:
        self.current = current
        self.snapshots = summaries.keys()
        self.rows = current
        if current is not None and current in summaries:
            self.rows = int(summaries[current].get(ROWS_OF, current))


def _read_tables(settings: Settings, tables: Iterable[str]) -> dict[str, _Ids]:
    names = sorted(tables)
    if settings.profile.catalog == "sqlite" and settings.profile.warehouse == "file":
        locations = _metadata_files(settings)
        return {name: _read_metadata(locations.get(name)) for name in names}
    from headrace.lake.lake import open as open_lake

    lake = open_lake(settings)
    existing = set(lake.list_tables())
    ids = {name: _Ids(None, {}) for name in names}
    for name in existing.intersection(names):
        table = lake.table(name)
        current = table.current_snapshot()
        summaries = {snapshot.id: snapshot.summary for snapshot in table.snapshots()}
        ids[name] = _Ids(None if current is None else current.id, summaries)
    return ids


def _metadata_files(settings: Settings) -> dict[str, str]:
    """Table → its metadata file, as the embedded catalog names it."""
    path = path_of(settings.catalog_url)
    if not path.is_file():
        return {}
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS)) as connection:
            if not is_home(connection, path.parent):  # to open the lake makes it so
                from headrace.lake.lake import open as open_lake

                open_lake(settings)
            return dict(
                connection.execute(
                    "SELECT table_name, metadata_location FROM iceberg_tables WHERE table_namespace = ?",
                    [settings.project],
                )
            )
    except sqlite3.Error as error:
        if "no such table" in str(error):  # the catalog's file was made a moment ago
            return {}
        raise Unavailable(f"the catalog cannot be read: {error}", where=str(path)) from error


def _read_metadata(location: str | None) -> _Ids:
    if location is None:
        return _Ids(None, {})
    metadata: dict[str, Any] = json.loads(Path(location).read_bytes())
    current = metadata.get("current-snapshot-id")
    summaries = {
        snapshot["snapshot-id"]: snapshot.get("summary", {}) for snapshot in metadata.get("snapshots", ())
    }
    return _Ids(None if current in (None, -1) else int(current), summaries)
