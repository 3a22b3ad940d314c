"""The rows of the tables that a plan's features are joined from, and whether they tell of a moment at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from headrace.declare.event import table_of
from headrace.events.ingest.position import read_position
from headrace.features.offline.point_in_time import as_of_rows, reads_changes
from headrace.features.plan import AsOfView, FeaturePlan, StoredView, WindowedView
from headrace.features.values.columns import POLARS
from headrace.kernel.errors import CallError, Unavailable
from headrace.kernel.position import SnapshotPosition, decode_position
from headrace.kernel.properties import HISTORY, INPUT
from headrace.kernel.time import micros
from headrace.lake import Lake, Snapshot, VisibleTables
from headrace.log import Batch, Log
from headrace.serving.errors import NoHistory
from headrace.serving.prediction import TABLE, TOPIC

__all__ = ["History"]

_SHIPPING = timedelta(seconds=10)  # in which a prediction usually reaches the log
_UNREAD = 100_000  # events that are looked at; if more are not ingested, the topic is far behind
_INGESTING = timedelta(minutes=1)  # in which an event usually reaches its table


class History:
    """Reads tables for past moments, each at the snapshot that readers of the project see.

    Args:
        lake: the lake that has the tables.
        log: the log that they are ingested from.
    """

    def __init__(self, lake: Lake, log: Log) -> None:
        self._lake, self._log = lake, log
        self._tables = VisibleTables(lake)
        self._begins: dict[tuple[str, int], datetime | None] = {}

    def reader(
        self, plan: FeaturePlan, requests: Sequence[Mapping[str, Any]], moment: datetime
    ) -> Callable[[str], pl.LazyFrame]:
        """A function that reads a table of the plan's views by its name: the rows of these requests' entities;
        of a changelog all rows, because a truncate or a snapshot removes rows of any entity.

        All tables are read at the snapshots that readers see now, also by the `check_begins` that follows.

        The function raises Unavailable if events from before the moment may not be in the table yet, and
        NoHistory if it has no rows.
        """
        self._tables = VisibleTables(self._lake)

        def read(name: str) -> pl.LazyFrame:
            views = [view for view in plan.stored if view.table == name]
            for view in views:
                if isinstance(view, WindowedView):
                    self._check_events(view, moment)
            rows = self._scan_valid(name)
            if any(isinstance(view, AsOfView) and reads_changes(view, rows) for view in views):
                return rows
            columns = rows.collect_schema().names()
            return rows.filter(
                pl.any_horizontal(_is_of_entity(plan, view, requests, columns) for view in views)
            )

        return read

    def check_events(self, plan: FeaturePlan, moment: datetime) -> None:
        """Raises Unavailable if events from before the moment may not be in the tables of the plan's windows
        yet."""
        for view in plan.windowed:
            self._check_events(view, moment)

    def check_log(self, moment: datetime) -> None:
        """Raises Unavailable if predictions of the moment may not be in their table yet."""
        self._check_topic(TOPIC, TABLE, moment + _SHIPPING)

    def check_begins(self, plan: FeaturePlan, features: pl.DataFrame, moment: datetime) -> None:
        """Raises NoHistory if a view has no value in any row of the features because the moment is before the
        first row of its table. Before the first event, a window counts 0."""
        for view in plan.stored:
            columns = [features[feature.column] for feature in plan.features if feature.view == view.name]
            if columns and all(_is_empty(column, view) for column in columns):
                self._check_begin(view, moment)

    def _check_begin(self, view: StoredView, moment: datetime) -> None:
        """Raises NoHistory if the view's table has no row from before the moment."""
        key = (view.digest, self._find_snapshot(view.table).id)
        if key not in self._begins:
            self._begins[key] = _find_begin(view, self._scan_valid(view.table))
        begin = self._begins[key]
        is_counted_then = isinstance(view, AsOfView)  # a window ends before its moment
        if begin is None or moment < begin or (moment == begin and not is_counted_then):
            first = "has no rows" if begin is None else f"begins at {begin.isoformat()}"
            raise NoHistory(
                f"Nothing is known of {moment.isoformat()}: table {view.table!r}, which the features of view"
                f" {view.name!r} are made from, {first}. Ask for a later moment, or send older events.",
                field="as_of",
            )

    def _find_snapshot(self, name: str) -> Snapshot:
        """The snapshot of a table that readers see. Raises NoHistory if there is none."""
        try:
            snapshot, why = self._tables.snapshot(name), "has no rows"
        except CallError as error:
            snapshot, why = None, f"cannot be read ({error.what})"
        if snapshot is None:
            raise NoHistory(
                f"Table {name!r}, which features are made from, {why}: build it (headrace build"
                f" {name}) or ingest its events.",
                field="as_of",
            )
        return snapshot

    def _scan_valid(self, name: str) -> pl.LazyFrame:
        rows = self._lake.table(name).scan(self._find_snapshot(name).id)
        return rows.filter("_valid") if "_valid" in rows.collect_schema() else rows

    def _check_events(self, view: WindowedView, moment: datetime) -> None:
        source = table_of(view.topic)
        self._check_topic(view.topic, source, moment)
        if view.table == source:
            return
        read = self._find_input(view.table, source)
        events, current = self._lake.table(source), self._find_snapshot(source)
        if read is None or read.snapshot_id == current.id:
            return
        try:
            is_built = moment + _INGESTING <= events.snapshot(read.snapshot_id).at
        except CallError:  # it has expired
            is_built = False
        if not is_built:
            raise Unavailable(
                f"table {view.table!r} is not built up to {moment.isoformat()}: headrace build {view.table}"
            )

    def _find_input(self, name: str, source: str) -> SnapshotPosition | None:
        """The snapshot of the source that the rows which readers of the table see were made from."""
        table, visible = self._lake.table(name), self._find_snapshot(name)
        text = visible.summary.get(f"{INPUT}{source}")
        if text is None:  # a maintenance wrote the newest rows again
            text = table.property(f"{INPUT}{source}")
        position = None if text is None else decode_position(text)
        return position if isinstance(position, SnapshotPosition) else None

    def _check_topic(self, topic: str, table: str, moment: datetime) -> None:
        if topic not in self._log.topics():
            return
        position = read_position(self._lake.table(table)) if self._lake.table_exists(table) else None
        offsets = self._log.start(topic)
        if position is not None and position.log_id == self._log.identity(topic):
            offsets |= position.offsets
        ends = self._log.end(topic)
        read = 0
        while unread := {p: offsets.get(p, 0) for p, end in ends.items() if offsets.get(p, 0) < end}:
            batch = self._log.read(topic, unread, _UNREAD)
            read += len(batch)
            if read >= _UNREAD or _has_events_of(batch, moment):
                raise Unavailable(
                    f"topic {topic} is not ingested up to {moment.isoformat()}: ask again in a moment, or run"
                    " headrace ingest"
                )
            if not len(batch):
                return
            offsets |= batch.next


def _has_events_of(batch: Batch, moment: datetime) -> bool:
    """Whether some of these events may have been known before the moment: they arrived before it, or they were
    loaded as history, which is known from its own time."""
    if (batch.arrived_at <= micros(moment)).any():
        return True
    return any(headers is not None and HISTORY in headers for headers in batch.headers)


def _is_of_entity(
    plan: FeaturePlan, view: StoredView, requests: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> pl.Expr:
    """Whether a row of the view's table has keys that a request has; the join pairs them, and names a key that
    is none of the columns."""
    dtypes = {key.join_key: POLARS[key.dtype] for key in plan.entities}
    is_of = pl.lit(True)
    for key in view.keys:
        column = view.column(key) if isinstance(view, AsOfView) else key
        if column not in columns:
            continue
        values = pl.Series(list({request.get(key) for request in requests}), dtype=dtypes[key])
        is_of &= pl.col(column).cast(dtypes[key], strict=False).is_in(values.implode())
    return is_of


def _is_empty(column: pl.Series, view: StoredView) -> bool:
    """Whether a column has only what a view gives that has no row: null, and 0 of a window."""
    is_empty = column.is_null()
    if isinstance(view, WindowedView) and column.dtype.is_numeric():
        is_empty |= column == 0
    return bool(is_empty.all())


def _find_begin(view: StoredView, rows: pl.LazyFrame) -> datetime | None:
    if isinstance(view, WindowedView):
        times = rows.select(pl.col(view.time).min())
    else:
        times = as_of_rows(view, rows).select(pl.col(view.time).min())
    begin: datetime | None = times.collect().item()
    return begin
