"""Heads: the newest snapshot of some tables, without the 1.6 s that PyIceberg's import takes.

The embedded catalog is one SQLite table that names each Iceberg table's metadata file, and that file
is JSON which names its current snapshot. Any other catalog is asked through PyIceberg.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from headrace.config.settings import Settings
from headrace.kernel.addresses import path_of
from headrace.kernel.errors import Unavailable
from headrace.kernel.properties import ROWS_OF
from headrace.lake.home import is_home

__all__ = ["find_missing", "heads", "snapshots_made"]

_BUSY_SECONDS = 15


def heads(settings: Settings, tables: Iterable[str]) -> dict[str, int | None]:
    """Table → the id of its newest snapshot; None where there is no such table, or no snapshot.

    Raises:
        Unavailable: the catalog is locked or away.
    """
    wanted = sorted(tables)
    if not _embedded(settings):
        return _asked(settings, wanted)
    found = _locations(settings)
    return {name: _current(found[name]) if name in found else None for name in wanted}


def snapshots_made(settings: Settings, tables: Iterable[str]) -> dict[str, int | None]:
    """Table → the id of the snapshot in which its present rows were made; None as for `heads`.

    It is the newest one, or the one that upkeep's newer ones have the rows of.

    Raises:
        Unavailable: the catalog is locked or away.
    """
    names = sorted(tables)
    if not _embedded(settings):
        from headrace.lake.catalog import open as open_lake

        lake = open_lake(settings)
        there = set(lake.list_tables())
        current = {name: lake.table(name).current_snapshot() if name in there else None for name in names}
        return {
            name: None if head is None else int(head.summary.get(ROWS_OF, head.id))
            for name, head in current.items()
        }
    locations = _locations(settings)
    return {name: _made(_metadata(locations[name])) if name in locations else None for name in names}


def find_missing(settings: Settings, snapshots: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
    """Those of the snapshots (table, snapshot id) that the lake does not hold, or holds no more.

    Raises:
        Unavailable: the catalog is locked or away.
    """
    wanted = set(snapshots)
    tables = {table for table, _ in wanted}
    if _embedded(settings):
        locations = _locations(settings)
        ids = {table: _kept(locations[table]) for table in tables & locations.keys()}
    else:
        from headrace.lake.catalog import open as open_lake

        lake = open_lake(settings)
        existing = tables & set(lake.list_tables())
        ids = {table: {snapshot.id for snapshot in lake.table(table).snapshots()} for table in existing}
    return {(table, snapshot) for table, snapshot in wanted if snapshot not in ids.get(table, ())}


def _embedded(settings: Settings) -> bool:
    return settings.lake.catalog == "sqlite" and settings.lake.warehouse == "file"


def _locations(settings: Settings) -> dict[str, str]:
    """Table → its metadata file, as the embedded catalog says."""
    path = path_of(settings.lake.catalog_url)
    if not path.is_file():
        return {}
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS)) as connection:
            if not is_home(connection, path.parent):  # opening it makes it so
                from headrace.lake.catalog import open as open_lake

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


def _current(location: str) -> int | None:
    snapshot = _metadata(location).get("current-snapshot-id")
    return None if snapshot in (None, -1) else int(snapshot)


def _kept(location: str) -> set[int]:
    return {int(one["snapshot-id"]) for one in _metadata(location).get("snapshots", ())}


def _made(metadata: dict[str, Any]) -> int | None:
    current = metadata.get("current-snapshot-id")
    for snapshot in metadata.get("snapshots", ()):
        if snapshot["snapshot-id"] == current:
            return int(snapshot.get("summary", {}).get(ROWS_OF, current))
    return None


def _metadata(location: str) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads(Path(location).read_bytes())
    return metadata


def _asked(settings: Settings, tables: list[str]) -> dict[str, int | None]:
    from headrace.lake.catalog import open as open_lake  # heavy, and needed only here

    lake = open_lake(settings)
    there = set(lake.list_tables())
    found = {name: lake.table(name).current_snapshot() if name in there else None for name in tables}
    return {name: None if head is None else head.id for name, head in found.items()}
