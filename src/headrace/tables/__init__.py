"""Tables: each is a function of what it reads, and only the days that must be are made again.

Importing this costs nothing: each name comes in when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.tables.build import Built, build_table
    from headrace.tables.plan import Plan, stale_days
    from headrace.tables.read import read_input

_HOMES = {
    "Built": "headrace.tables.build",
    "Plan": "headrace.tables.plan",
    "build_table": "headrace.tables.build",
    "read_input": "headrace.tables.read",
    "stale_days": "headrace.tables.plan",
}

__all__ = ["Built", "Plan", "build_table", "read_input", "stale_days"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value
