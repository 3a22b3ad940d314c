"""The lake: Iceberg tables, read at a snapshot, and written in commits that also move a position.

Only this package imports PyIceberg. Importing the package is cheap: each name is loaded at its first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.lake.files import Unwritable
    from headrace.lake.lake import Lake, open  # noqa: A004
    from headrace.lake.maintenance import MaintenanceReport, maintain
    from headrace.lake.snapshot import Snapshot
    from headrace.lake.table import LakeTable
    from headrace.lake.visible import VisibleTables

_MODULES = {
    "Lake": "headrace.lake.lake",
    "LakeTable": "headrace.lake.table",
    "MaintenanceReport": "headrace.lake.maintenance",
    "Snapshot": "headrace.lake.snapshot",
    "Unwritable": "headrace.lake.files",
    "VisibleTables": "headrace.lake.visible",
    "maintain": "headrace.lake.maintenance",
    "open": "headrace.lake.lake",
}

__all__ = [
    "Lake",
    "LakeTable",
    "MaintenanceReport",
    "Snapshot",
    "Unwritable",
    "VisibleTables",
    "maintain",
    "open",
]


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value
