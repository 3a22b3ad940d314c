"""Keeping: the upkeep of a topic's table beside its ingest."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor

from headrace.kernel.errors import HeadraceError
from headrace.lake import LakeTable
from headrace.lake.maintenance import keep

__all__ = ["Keeping"]

KEEP = 200  # commits, after which the table's small files are put together, beside the work
FILES = 200  # files of the table, from which on a run until the log's end does so too

_logger = logging.getLogger(__name__)


class Keeping:
    """The upkeep of the topic's table, in a thread of its own, after every KEEP commits."""

    def __init__(self, table: LakeTable) -> None:
        self._table = table
        self._commits = 0
        self._thread = ThreadPoolExecutor(1, "ingest-upkeep")
        self._kept: Future[None] | None = None

    def __enter__(self) -> Keeping:
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.shutdown()

    def committed(self) -> None:
        """Counts a commit."""
        self._commits += 1
        if self._commits >= KEEP and (self._kept is None or self._kept.done()):
            self._commits = 0
            self._kept = self._thread.submit(self._keep)

    def ended(self) -> None:
        """The log's end was reached. Many short runs gather small files as well as a long one does."""
        head = self._table.head() if self._commits else None
        if head is not None and int(head.summary.get("total-data-files", 0)) >= FILES:
            self._keep()

    def _keep(self) -> None:
        try:
            keep(self._table)
        except HeadraceError as error:  # the next one does what this one could not
            _logger.warning("upkeep of %s: %s", self._table.name, error)
