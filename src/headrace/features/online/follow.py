"""The stream's way into the online store: ingest's sink that windowed views follow a topic by."""

from __future__ import annotations

import logging
from collections import defaultdict

import polars as pl
import pyarrow as pa

from headrace.declare.event import Contract
from headrace.features.offline.rowwise import codes_of, is_of_other_code, rows_of
from headrace.features.online import OnlineStore
from headrace.features.plan import WindowedView
from headrace.kernel.errors import Conflict
from headrace.kernel.position import LogPosition
from headrace.projects.project import Project

__all__ = ["OnlineSink"]

_logger = logging.getLogger(__name__)
_TRIES = 20


class OnlineSink:
    """Keeps every filled windowed view of one topic level with it (events.ingest.sinks.Sink).

    Which views there are is asked of the store each time, so that what a build fills is followed at
    once by an ingest that has long been running. Several ingests may run, each with its share of the
    topic: each batch is taken once.

    A view that was made by another code of its rowwise function than this process has loaded is not
    followed: two functions' rows in one state would equal neither. It keeps what it holds, and its
    position tells each answer how old that is. A build with the new code fills a view of its own.
    """

    def __init__(self, project: Project, contract: Contract, store: OnlineStore) -> None:
        self.name = "the online store"
        self._project = project
        self._topic = contract.topic
        self._store = store
        self._idle: LogPosition | None = None
        self._codes = codes_of(project)  # now, while the files are those that were loaded
        self._told: set[str] = set()

    def position(self) -> LogPosition | None:
        """How far every followed view has come. Where there is none, what came by is taken."""
        stands = [position for _, position in self._followed()]
        if not stands:
            return self._idle
        first = stands[0]
        partitions = {partition for position in stands for partition in position.offsets}
        return LogPosition(
            first.topic,
            first.log_id,
            {one: min(position.next_offset(one) for position in stands) for one in sorted(partitions)},
        )

    def apply(self, good: pa.Table, position: LogPosition) -> None:
        """Takes good events up to `position` into every followed view, one transaction each group.

        Raises:
            Conflict: other processes kept moving the same views.
            HeadraceError: a rowwise function failed.
        """
        self._idle = position if self._idle is None else self._idle.further(position.offsets)
        for attempt in range(_TRIES):
            try:
                return self._apply(good, position)
            except Conflict:
                if attempt == _TRIES - 1:
                    raise
        return None

    def _apply(self, good: pa.Table, position: LogPosition) -> None:
        # Views of one table that stand at one place share the work.
        groups: dict[tuple[str | None, str], list[WindowedView]] = defaultdict(list)
        stands: dict[str, LogPosition] = {}
        for view, at in self._followed():
            key = (view.rowwise, repr(at))
            groups[key].append(view)
            stands[key[1]] = at
        for (_, place), views in groups.items():
            at = stands[place]
            ahead = at.further(position.offsets)
            if ahead != at:
                rows = self._rows(views, good, at)
                self._store.apply(views, rows, ahead, after=at)

    def _rows(self, views: list[WindowedView], good: pa.Table, after: LogPosition) -> pa.Table:
        """What the events that lie behind `after` become in the views' table."""
        new = pl.any_horizontal(
            pl.lit(False),
            *(
                (pl.col("_log_partition") == partition)
                & (pl.col("_log_offset") >= after.next_offset(partition))
                for partition in pl.DataFrame(good)["_log_partition"].unique().to_list()
            ),
        )
        events = pl.DataFrame(good).lazy().filter(new)
        rows = rows_of(self._project, views)(events)
        return rows.collect().to_arrow()

    def _followed(self) -> list[tuple[WindowedView, LogPosition]]:
        followed, left = [], []
        for view in self._store.views():
            if isinstance(view, WindowedView) and view.topic == self._topic:
                if is_of_other_code(view, self._codes):
                    left.append(view)
                    continue
                position = self._store.position(view)
                if isinstance(position, LogPosition):
                    followed.append((view, position))
        names = {view.name for view, _ in followed}
        for view in left:
            if view.name not in names:  # else a build has put the new code's view in its place
                self._tell(view)
        return followed

    def _tell(self, view: WindowedView) -> None:
        if view.digest not in self._told:
            self._told.add(view.digest)
            _logger.warning(
                "view %s (%s) does not follow topic %s any more: it was made by another code of %s() than this"
                " process runs. Bring the online state up to date: headrace build; then start ingest again",
                view.name,
                view.digest[:8],
                view.topic,
                view.rowwise,
            )
