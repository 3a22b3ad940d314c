"""Maintains all tables of the lake and the online store. The ingest process of `up` repeats it."""

from __future__ import annotations

import logging
import threading

from headrace import lake as lakes
from headrace.config.settings import Settings
from headrace.flows.models.views import drop_unused_views
from headrace.kernel.errors import HeadraceError
from headrace.lake import Lake, MaintenanceReport, maintain
from headrace.workspace import Workspace

__all__ = ["maintain_tables", "run_maintenance"]

_logger = logging.getLogger(__name__)
FIRST, EVERY = 120.0, 600.0  # seconds before the first round, and between two rounds


def maintain_tables(lake: Lake, stop: threading.Event | None = None) -> dict[str, MaintenanceReport]:
    """Maintains every table once. Returns table → what was done.

    If a table cannot be maintained now, that is logged and the next round tries again.

    Args:
        lake: the lake.
        stop: set it in another thread to end after the present table.
    """
    reports: dict[str, MaintenanceReport] = {}
    for name in lake.list_tables():
        if stop is not None and stop.is_set():
            break
        try:
            reports[name] = maintain(lake.table(name))
        except HeadraceError as error:
            _logger.warning("maintenance of %s: %s", name, error)
    return reports


def run_maintenance(settings: Settings, stop: threading.Event) -> None:
    """Maintains all tables and the online store regularly until `stop` is set.

    Blocks, so run it in a thread.
    """
    pause = FIRST
    while not stop.wait(pause):
        pause = EVERY
        try:
            maintain_tables(lakes.open(settings), stop)
        except HeadraceError as error:  # the catalog cannot be reached
            _logger.warning("maintenance: %s", error)
        try:
            with Workspace(settings) as workspace:
                drop_unused_views(workspace)
        except HeadraceError as error:
            _logger.warning("maintenance of the online store: %s", error)
