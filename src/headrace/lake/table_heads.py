"""Table heads: what each table is at now, read from metadata alone and without importing PyIceberg where the
catalog is the embedded one."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from headrace.config.settings import Settings
from headrace.kernel.time import from_micros
from headrace.lake.heads import _embedded, _locations, _metadata

if TYPE_CHECKING:
    from headrace.lake.table import LakeTable

__all__ = ["TableHead", "read_heads"]


class TableHead(Struct, frozen=True):
    """The present state of a table.

    Attributes:
        snapshot: the id of its newest snapshot; None where nothing was ever written.
        rows: how many rows it has.
        at: when the newest snapshot was committed, in UTC.
        properties: the table's properties.
    """

    snapshot: int | None
    rows: int
    at: datetime | None
    properties: dict[str, str]


def read_heads(settings: Settings) -> dict[str, TableHead]:
    """Table → its present state, of every table of the project.

    Raises:
        Unavailable: the catalog is locked or away.
    """
    if _embedded(settings):
        return {name: _parse(_metadata(location)) for name, location in sorted(_locations(settings).items())}
    from headrace.lake.catalog import open as open_lake

    lake = open_lake(settings)
    return {name: _head_of(lake.table(name)) for name in lake.list_tables()}


def _parse(metadata: dict[str, Any]) -> TableHead:
    properties, current = metadata.get("properties", {}), metadata.get("current-snapshot-id")
    for snapshot in metadata.get("snapshots", ()):
        if snapshot["snapshot-id"] == current:
            rows = int(snapshot.get("summary", {}).get("total-records", 0))
            return TableHead(current, rows, from_micros(snapshot["timestamp-ms"] * 1000), properties)
    return TableHead(None, 0, None, properties)


def _head_of(table: LakeTable) -> TableHead:
    iceberg, snapshot = table.iceberg(), table.current_snapshot()
    properties = dict(iceberg.properties)
    if snapshot is None:
        return TableHead(None, 0, None, properties)
    return TableHead(snapshot.id, snapshot.rows, snapshot.at, properties)
