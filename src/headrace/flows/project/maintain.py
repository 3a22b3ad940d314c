"""Maintenance of all tables of the lake; the ingest process of `up` repeats it."""

from __future__ import annotations

import logging
import threading

from headrace import lake as lakes
from headrace.config.settings import Settings
from headrace.kernel.errors import HeadraceError
from headrace.lake import Lake, MaintenanceReport, maintain

__all__ = ["maintain_tables", "run_maintenance"]

_logger = logging.getLogger(__name__)
FIRST, EVERY = 120.0, 600.0  # seconds after the start, and between two rounds


def maintain_tables(lake: Lake, stop: threading.Event | None = None) -> dict[str, MaintenanceReport]:
    """Maintains every table once and returns table → what was done.

    A table that cannot be maintained now is logged and left to the next round.

    Args:
        lake: the tables.
        stop: set it to end after the table that is being maintained.
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
    """Maintains all tables now and then until `stop` is set. Blocks: run it on a thread."""
    pause = FIRST
    while not stop.wait(pause):
        pause = EVERY
        try:
            maintain_tables(lakes.open(settings), stop)
        except HeadraceError as error:  # the catalog is away
            _logger.warning("maintenance: %s", error)
