"""The stream's way into the online store: ingest's sink that windowed views follow a topic by."""

from __future__ import annotations

from collections import defaultdict

import polars as pl
import pyarrow as pa

from headrace.declare.event import Contract
from headrace.declare.project import Project
from headrace.features.online import OnlineStore
from headrace.features.plan import WindowedView
from headrace.features.rowwise import rows_of
from headrace.kernel.errors import Conflict
from headrace.kernel.position import LogPosition

__all__ = ["OnlineSink"]

_TRIES = 20


class OnlineSink:
    """Keeps every filled windowed view of one topic level with it (events.sinks.Sink).

    Which views there are is asked of the store each time, so that what a build fills is followed at
    once by an ingest that has long been running. Several ingests may run: each batch is taken once.
    """

    def __init__(self, project: Project, contract: Contract, store: OnlineStore) -> None:
        self.name = "the online store"
        self._project = project
        self._topic = contract.topic
        self._store = store
        self._idle: LogPosition | None = None

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
        self._idle = position
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
            ahead = {p: end for p, end in position.offsets.items() if end > at.next_offset(p)}
            if ahead:
                rows = self._rows(views, good, at)
                self._store.apply(views, rows, at.advanced(ahead), after=at)

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
        found = []
        for view in self._store.views():
            if isinstance(view, WindowedView) and view.topic == self._topic:
                position = self._store.position(view)
                if isinstance(position, LogPosition):
                    found.append((view, position))
        return found
