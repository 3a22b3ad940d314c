"""Lineage: what every run read and wrote, recorded as OpenLineage events and followed as a graph.

`open(settings)` gives the store; `store.recorder()` listens to `kernel.run`.
"""

from __future__ import annotations

from headrace.config.settings import Settings
from headrace.lineage.names import Names
from headrace.lineage.store import Health, RunRow, Store

__all__ = ["Health", "RunRow", "Store", "open"]


def open(settings: Settings) -> Store:  # noqa: A001 - each room with a port is opened by `open`
    """Opens the lineage store of the project and profile, in its state folder."""
    return Store(settings.make_state() / "lineage.db", Names.of(settings), settings.root)
