"""Leads: what the views of a topic were given before it was in the topic's table, and its confirmation.

Ingest gives the online store judged events before it commits them to the table, so that they are readable at
once. Usually the same rows are committed a moment later. But the process may be killed in between, and the
events may be judged otherwise when they are read again: by an edited contract, because one of them cannot be
stored, or because the log lost them. So a view's position has the lead in each log partition: where it begins,
and a digest of its good events. Once the table has read so far, its rows must have the same digest. If they do
not, the view is filled again from the table. If they do, the lead is removed from the position.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import polars as pl

from headrace.declare.event import Contract
from headrace.events.ingest.rows import good_rows
from headrace.events.ingest.sinks import sink_schema
from headrace.features.offline.rowwise import codes_as_loaded, is_of_other_code
from headrace.features.online.backfill import fill_again
from headrace.features.online.store import OnlineStore
from headrace.features.plan import WindowedView
from headrace.kernel.errors import CallError, ProjectError
from headrace.kernel.position import Lead, LogPosition, leads_of
from headrace.lake import Lake
from headrace.projects.project import Project

__all__ = ["LeadWatch", "add_digests", "digest_events"]

_logger = logging.getLogger(__name__)
_SEED = 0xC0FFEE
_UINT64 = (1 << 64) - 1

Marks = dict[int, tuple[int, Lead | None]]
"""Log partition → a view's offset in it, and its lead there."""


def digest_events(events: pl.DataFrame) -> dict[int, int]:
    """Log partition → a digest of its good events (events.ingest.sinks.sink_schema), in whatever order.

    Digests of different versions of Polars may differ; then a view is filled again without need.
    """
    hashes = events.select(sorted(events.columns)).hash_rows(_SEED).to_numpy()
    partitions = events["_log_partition"].to_numpy()
    return {p: int(np.add.reduce(hashes[partitions == p])) for p in np.unique(partitions).tolist()}


def add_digests(digests: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """The digests of all events, from those of their parts."""
    total: Counter[int] = Counter()
    for part in digests:
        total.update(part)
    return {partition: digest & _UINT64 for partition, digest in total.items()}


class LeadWatch:
    """Knows which views of a topic have exactly the events that ingest has judged, and confirms the others.

    Only those views may lead: a lead on top of an unconfirmed one could not be confirmed any more.

    Args:
        project: the project that declares the topic.
        contract: the topic's contract.
        store: the online store.
        lake: the lake with the topic's table.
    """

    def __init__(self, project: Project, contract: Contract, store: OnlineStore, lake: Lake) -> None:
        self._project, self._contract = project, contract
        self._store, self._lake = store, lake
        self._confirmed: dict[str, Marks] = {}
        self._partitions: frozenset[int] = frozenset()

    @property
    def has_confirmed(self) -> bool:
        """Whether a view may lead."""
        return bool(self._confirmed)

    def restart(self) -> None:
        """Forgets which views are confirmed: what was judged and not committed is judged again."""
        self._confirmed.clear()

    def is_confirmed(self, view: WindowedView, current: LogPosition) -> bool:
        """Whether the view is where it was when it was confirmed, in this worker's log partitions."""
        return self._confirmed.get(view.digest) == _marks(current, self._partitions)

    def is_suspect(self, view: WindowedView, current: LogPosition) -> bool:
        """Whether the view has a lead in this worker's log partitions that is not confirmed."""
        has_lead = not self._partitions.isdisjoint(leads_of(current))
        return has_lead and not self.is_confirmed(view, current)

    def note(self, view: WindowedView, current: LogPosition) -> None:
        """Records that the view is at this position with events that are confirmed, or led by this process."""
        self._confirmed[view.digest] = _marks(current, self._partitions)

    def confirm(self, position: LogPosition) -> None:
        """Confirms every view of the topic that the table has caught up with, or fills it again.

        A confirmed lead is removed, so that a later change of the table's columns does not count against it.

        Args:
            position: how far the table has read the log partitions of this worker.

        Raises:
            Unavailable: the store or the lake cannot be reached.
        """
        self._partitions = frozenset(position.offsets)
        views = [
            view
            for view in self._store.views()
            if isinstance(view, WindowedView) and view.topic == self._contract.topic
        ]
        positions = self._store.positions() if views else {}
        for digest in self._confirmed.keys() - positions.keys():
            del self._confirmed[digest]
        digests: dict[tuple[int, int, int], int] = {}
        groups: dict[str, tuple[LogPosition, list[WindowedView]]] = {}  # confirmed views at one position
        for view in views:
            current = positions.get(view.digest)
            if not isinstance(current, LogPosition) or current.log_id != position.log_id:
                continue
            is_confirmed = self.is_confirmed(view, current)
            if not is_confirmed:
                self._confirmed.pop(view.digest, None)
            if any(current.next_offset(p) > end for p, end in position.offsets.items()):
                continue  # until the table has read so far
            if is_confirmed or all(
                lead.digest == self._digest_rows(p, lead.start, current.next_offset(p), digests)
                for p, lead in leads_of(current).items()
                if p in self._partitions
            ):
                groups.setdefault(repr(current), (current, []))[1].append(view)
            else:
                self._fill_again(view)
        for current, group in groups.values():
            self._end_leads(group, current)

    def _end_leads(self, views: list[WindowedView], current: LogPosition) -> None:
        """Records that the views are confirmed at this position, and removes their leads."""
        leads = leads_of(current)
        others = {p: lead for p, lead in leads.items() if p not in self._partitions}
        if len(others) < len(leads):
            try:
                self._store.end_leads(views, current, self._partitions)
            except CallError:  # another process dropped a view: the next call ends the leads of the others
                return
        for view in views:
            self.note(view, current.with_leads(others))

    def _digest_rows(
        self, partition: int, start: int, end: int, digests: dict[tuple[int, int, int], int]
    ) -> int:
        """The digest of the table's good rows between two offsets of a log partition."""
        if (partition, start, end) not in digests:
            table, schema = self._lake.table(self._contract.table), sink_schema(self._contract)
            rows = good_rows(table, schema).filter(
                pl.col("_log_partition") == partition,
                pl.col("_log_offset").is_between(start, end, closed="left"),
            )
            events = pl.DataFrame(rows.collect().to_arrow().cast(schema))
            digests[partition, start, end] = digest_events(events).get(partition, 0)
        return digests[partition, start, end]

    def _fill_again(self, view: WindowedView) -> None:
        """Fills a view again whose lead the table does not have. Drops it if that is impossible, because its
        values are wrong."""
        where = f"view {view.name} ({view.digest[:8]}) of topic {view.topic}"
        _logger.warning("%s has events that the table does not have so: it is filled again", where)
        try:
            if is_of_other_code(view, codes_as_loaded(self._project)):
                raise CallError(f"it was filled by other code of {view.rowwise}()")
            fill_again(self._project, self._lake, view, self._store)
        except (CallError, ProjectError) as error:
            self._store.drop(view.digest)
            _logger.error("%s cannot be filled again and was dropped: %s. Run headrace build", where, error)


def _marks(position: LogPosition, partitions: Collection[int]) -> Marks:
    leads = leads_of(position)
    return {p: (position.next_offset(p), leads.get(p)) for p in partitions}
