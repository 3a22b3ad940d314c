"""Keeps the online store up to date with the stream: the sink of ingest that updates windowed views."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from headrace.declare.event import Contract
from headrace.features.offline.rowwise import codes_as_loaded, is_of_other_code, rows_of
from headrace.features.online.leads import LeadWatch, add_digests, digest_events
from headrace.features.online.store import OnlineStore
from headrace.features.plan import WindowedView
from headrace.kernel.errors import CallError, Conflict, ProjectError, Unavailable
from headrace.kernel.position import Lead, LogPosition, leads_of
from headrace.lake import Lake
from headrace.projects.project import Project
from headrace.tables.failures import describe_failures

__all__ = ["OnlineSink"]

_logger = logging.getLogger(__name__)
_TRIES = 20


class OnlineSink:
    """Keeps every filled windowed view of one topic up to date (events.ingest.sinks.Sink).

    It leads the topic's table: judged events are applied before their commit (`lead`), and confirmed after it
    (online.leads).

    Every call reads the list of views from the store, so that a running ingest at once follows a view that a
    build fills. Several ingests may run, each with its share of the topic; each batch is applied once.

    A view whose rowwise function has other code than this process has loaded is not followed, because a state
    with rows of two functions would equal neither. The view keeps its values and its position. A build with
    the new code fills a separate view.

    A view with the events of an earlier topic of the same name is not followed either, until a build fills it.

    An event that a rowwise function fails on makes no rows, as in the function's table (tables.rowwise). If the
    function fails as a whole, its views are no longer followed.

    Raises:
        ProjectError: the project's code was edited since it was imported.
    """

    name = "the online store"
    is_raw = False

    def __init__(self, project: Project, contract: Contract, store: OnlineStore, lake: Lake) -> None:
        self._project = project
        self._topic = contract.topic
        self._store = store
        self._idle: LogPosition | None = None
        self._reported: LogPosition | None = None  # where the next events begin
        self._codes = codes_as_loaded(project)
        self._leads = LeadWatch(project, contract, store, lake)
        self._warned: set[str] = set()
        self._failing: set[str] = set()
        self._judged: dict[int, _JudgedBatch] = {}

    @property
    def may_lead(self) -> bool:
        """Whether there is a view that may be ahead of the table."""
        return self._leads.has_confirmed

    def restart(self) -> None:
        """See events.ingest.sinks.LeadingSink."""
        self._leads.restart()
        self._judged.clear()

    def confirm(self, position: LogPosition) -> None:
        """See events.ingest.sinks.LeadingSink."""
        self._leads.confirm(position)
        self._idle = position if self._idle is None else self._idle.advance(position.offsets)

    def lead(self, batches: Sequence[pa.Table], committed: LogPosition, position: LogPosition) -> None:
        """See events.ingest.sinks.LeadingSink. A view that another process moves meanwhile is left out."""
        self._judged = {id(batch): self._judged.get(id(batch)) or _JudgedBatch.of(batch) for batch in batches}
        judged = list(self._judged.values())
        digests = add_digests(batch.digests for batch in judged)
        for views, current in self._group_views(only_confirmed=True):
            ahead = current.advance(position.offsets)
            moved = [p for p, end in ahead.offsets.items() if end > current.next_offset(p)]
            if not moved or any(current.next_offset(p) < committed.next_offset(p) for p in moved):
                continue
            leads = {p: Lead(committed.next_offset(p), digests.get(p, 0)) for p in moved}
            new = [_events_after(batch.events, current) for batch in judged if batch.is_ahead_of(current)]
            good = pl.concat([judged[0].events.clear(), *new])
            with suppress(Conflict, CallError):
                self._apply_group(views, good, _with_leads(ahead, current, leads), current)

    def position(self) -> LogPosition | None:
        """The position that every followed view has reached; without such views, that of the last call."""
        positions = [position for _, position in self._views_to_follow()]
        if not positions:
            self._reported = self._idle
            return self._idle
        first = positions[0]
        partitions = {partition for position in positions for partition in position.offsets}
        self._reported = LogPosition(
            first.topic,
            first.log_id,
            {p: min(position.next_offset(p) for position in positions) for p in sorted(partitions)},
        )
        return self._reported

    def apply(self, events: pa.Table, position: LogPosition) -> None:
        """Applies good events up to `position` to every followed view, one transaction for each group of views.

        Raises:
            Conflict: other processes kept moving the same views.
            Unavailable: a view is behind the first event, because it was filled meanwhile or the store's server
                was restarted without its last changes. The next call of `position` says where it is.
        """
        self._idle = position if self._idle is None else self._idle.advance(position.offsets)
        for attempt in range(_TRIES):
            try:
                self._apply(events, position)
                self._reported = (
                    position if self._reported is None else self._reported.advance(position.offsets)
                )
                return
            except (Conflict, CallError):  # another process moved the views, or dropped one
                if attempt == _TRIES - 1:
                    raise

    def _apply(self, events: pa.Table, position: LogPosition) -> None:
        good = pl.DataFrame(events)
        for views, current in self._group_views():
            ahead = _with_leads(current.advance(position.offsets), current, {})
            reported = self._reported
            if reported and any(current.next_offset(p) < reported.next_offset(p) for p in position.offsets):
                raise Unavailable(
                    f"view {views[0].name!r} is at {current}, and the next events begin at {reported}",
                    remedy="Nothing to do: the events between are read from the topic's table.",
                )
            if ahead != current:
                self._apply_group(views, _events_after(good, current), ahead, current)

    def _apply_group(
        self, views: list[WindowedView], events: pl.DataFrame, ahead: LogPosition, after: LogPosition
    ) -> None:
        try:
            rows, failed = rows_of(self._project, views)(events.lazy())
        except ProjectError as error:
            for view in views:
                self._stop_following(view, str(error))
            return
        if failed:
            _logger.error("topic %s: %s", self._topic, describe_failures(str(views[0].rowwise), failed))
        confirmed = [view for view in views if self._leads.is_confirmed(view, after)]
        self._store.apply(views, rows.to_arrow(), ahead, after=after)
        for view in confirmed:
            self._leads.note(view, ahead)

    def _group_views(self, *, only_confirmed: bool = False) -> Iterable[tuple[list[WindowedView], LogPosition]]:
        """The views to follow, and where they are: views of one table at one position share the work."""
        groups: dict[tuple[str | None, str], tuple[list[WindowedView], LogPosition]] = {}
        for view, current in self._views_to_follow():
            if not only_confirmed or self._leads.is_confirmed(view, current):
                views, _ = groups.setdefault((view.rowwise, repr(current)), ([], current))
                views.append(view)
        return groups.values()

    def _views_to_follow(self) -> list[tuple[WindowedView, LogPosition]]:
        followed, other_code = [], []
        for view in self._store.views():
            if not isinstance(view, WindowedView) or view.topic != self._topic or view.digest in self._failing:
                continue
            if is_of_other_code(view, self._codes):
                other_code.append(view)
                continue
            position = self._store.position(view)
            if not isinstance(position, LogPosition) or self._leads.is_suspect(view, position):
                continue
            if self._idle is not None and position.log_id != self._idle.log_id:
                self._warn(view, "has the events of an earlier topic of this name. Run headrace build")
                continue
            followed.append((view, position))
        names = {view.name for view, _ in followed}
        for view in other_code:
            if view.name not in names:  # otherwise a build has filled a view of the new code in its place
                self._warn(
                    view,
                    f"was filled by other code of {view.rowwise}() than this process runs. Update the online"
                    " state (headrace build), then start ingest again",
                )
        return followed

    def _warn(self, view: WindowedView, reason: str) -> None:
        if view.digest not in self._warned:
            self._warned.add(view.digest)
            message = "view %s (%s) no longer follows topic %s: it %s"
            _logger.warning(message, view.name, view.digest[:8], view.topic, reason)

    def _stop_following(self, view: WindowedView, reason: str) -> None:
        self._failing.add(view.digest)
        _logger.error(
            "view %s (%s) no longer follows topic %s: %s. Correct the function, then run headrace build",
            view.name,
            view.digest[:8],
            view.topic,
            reason,
        )


def _with_leads(ahead: LogPosition, current: LogPosition, leads: Mapping[int, Lead]) -> LogPosition:
    """A position with these leads, and those of the log partitions in which it is where the view is now."""
    kept = {p: lead for p, lead in leads_of(current).items() if ahead.next_offset(p) == current.next_offset(p)}
    return ahead.with_leads({**kept, **leads})


class _JudgedBatch(NamedTuple):
    """The good events of a batch that is not in the table yet.

    Attributes:
        table: the batch, which keeps its id from being another's.
        events: the same events.
        digests: their digests (leads.digest_events).
        ends: log partition → the offset after its last event.
    """

    table: pa.Table
    events: pl.DataFrame
    digests: dict[int, int]
    ends: dict[int, int]

    @classmethod
    def of(cls, table: pa.Table) -> _JudgedBatch:
        """The events of this table."""
        events = pl.DataFrame(table)
        ends = dict(zip(events["_log_partition"].to_list(), events["_log_offset"].to_list(), strict=True))
        return cls(table, events, digest_events(events), {p: last + 1 for p, last in ends.items()})

    def is_ahead_of(self, position: LogPosition) -> bool:
        """Whether it has events after the position."""
        return any(end > position.next_offset(p) for p, end in self.ends.items())


def _events_after(events: pl.DataFrame, position: LogPosition) -> pl.DataFrame:
    """The good events after the position."""
    partitions, offsets = events["_log_partition"].to_numpy(), events["_log_offset"].to_numpy()
    is_after = np.zeros(len(events), np.bool_)
    for partition in np.unique(partitions).tolist():
        is_after |= (partitions == partition) & (offsets >= position.next_offset(partition))
    return events if is_after.all() else events.filter(is_after)
