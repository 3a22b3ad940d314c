"""The lake: Iceberg tables, read at a snapshot, committed together with a position.

The only room that knows PyIceberg. Importing it costs nothing: each name comes in when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.lake.catalog import Lake, open  # noqa: A004
    from headrace.lake.files import Unwritable
    from headrace.lake.maintenance import MaintenanceReport, maintain
    from headrace.lake.snapshot import Snapshot
    from headrace.lake.table import LakeTable

_HOMES = {
    "MaintenanceReport": "headrace.lake.maintenance",
    "Lake": "headrace.lake.catalog",
    "LakeTable": "headrace.lake.table",
    "Snapshot": "headrace.lake.snapshot",
    "Unwritable": "headrace.lake.files",
    "maintain": "headrace.lake.maintenance",
    "open": "headrace.lake.catalog",
}

__all__ = ["Lake", "LakeTable", "MaintenanceReport", "Snapshot", "Unwritable", "maintain", "open"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value
