"""Maintenance of a topic's table while its ingest runs."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor

from headrace.kernel.errors import HeadraceError
from headrace.lake import LakeTable, maintain

__all__ = ["IngestMaintenance"]

COMMITS = 200  # commits between two rounds of maintenance
FILES = 200  # at this many data files, a run that reaches the log's end maintains the table

_logger = logging.getLogger(__name__)


class IngestMaintenance:
    """Maintains the topic's table on a thread after every COMMITS commits.

    A context manager: its end waits for maintenance that is running.
    """

    def __init__(self, table: LakeTable) -> None:
        self._table = table
        self._commits = 0
        self._thread = ThreadPoolExecutor(1, "ingest-maintenance")
        self._running: Future[None] | None = None

    def __enter__(self) -> IngestMaintenance:
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.shutdown()

    def count_commit(self) -> None:
        """Counts a commit; starts maintenance if it is due and not running."""
        self._commits += 1
        if self._commits >= COMMITS and (self._running is None or self._running.done()):
            self._commits = 0
            self._running = self._thread.submit(self._maintain)

    def finish_run(self) -> None:
        """Maintains a table of many files now: many short runs leave small files just as one long run does."""
        snapshot = self._table.current_snapshot() if self._commits else None
        if snapshot is not None and int(snapshot.summary.get("total-data-files", 0)) >= FILES:
            self._maintain()

    def _maintain(self) -> None:
        try:
            maintain(self._table)
        except HeadraceError as error:  # the next round tries again
            _logger.warning("maintenance of %s: %s", self._table.name, error)
