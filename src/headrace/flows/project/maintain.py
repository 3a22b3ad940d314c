"""Upkeep of the lake: every table's, one after the other; `up` has its ingest process do it now and then."""

from __future__ import annotations

import logging
import threading

from headrace import lake as lakes
from headrace.config.settings import Settings
from headrace.kernel.errors import HeadraceError
from headrace.lake import Lake
from headrace.lake.maintenance import Kept, keep

__all__ = ["keep_tables", "upkeep"]

_logger = logging.getLogger(__name__)
FIRST, EVERY = 120.0, 600.0  # seconds after the start, and between two rounds


def keep_tables(lake: Lake, stop: threading.Event | None = None) -> dict[str, Kept]:
    """One round: table → what was done. A table that cannot be kept now is kept by the next round.

    Args:
        lake: whose tables.
        stop: set it to end after the table that is being kept.
    """
    done: dict[str, Kept] = {}
    for name in lake.names():
        if stop is not None and stop.is_set():
            break
        try:
            done[name] = keep(lake.table(name))
        except HeadraceError as error:
            _logger.warning("upkeep of %s: %s", name, error)
    return done


def upkeep(settings: Settings, stop: threading.Event) -> None:
    """Round after round until `stop`. To be run by a thread of its own."""
    pause = FIRST
    while not stop.wait(pause):
        pause = EVERY
        try:
            keep_tables(lakes.open(settings), stop)
        except HeadraceError as error:  # the catalog is away
            _logger.warning("upkeep: %s", error)
