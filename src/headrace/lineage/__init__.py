"""Lineage: the inputs and outputs of every run, recorded as OpenLineage events, and walked as a graph.

`open(settings)` opens the store; `store.recorder()` records the runs of `kernel.run`.
"""

from __future__ import annotations

from contextlib import suppress

from headrace.config.settings import Settings
from headrace.lineage.names import Names
from headrace.lineage.store import Health, RunRow, Store

__all__ = ["Health", "RunRow", "Store", "open"]


def open(settings: Settings) -> Store:  # noqa: A001 - each package with a port is opened by `open`
    """Opens the lineage store of the project and profile, in its state folder."""
    with suppress(OSError):  # the first write says so; a reader finds no runs
        settings.make_state()
    return Store(settings.place("lineage.db"), Names.of(settings), settings.root)
