"""Filling the online store from the lake: what a build does before a plan can be served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl

from headrace.features.offline.point_in_time import as_of_rows
from headrace.features.offline.rowwise import rows_of
from headrace.features.online import OnlineStore
from headrace.features.plan import AsOfView, FeaturePlan, WindowedView
from headrace.kernel.errors import CallError
from headrace.kernel.position import LogPosition, Position, SnapshotPosition
from headrace.kernel.time import from_micros, now_micros
from headrace.lake import Lake
from headrace.projects.project import Project
from headrace.tables.read import read_input

__all__ = ["FillResult", "fill"]

_INGEST = "ingest"  # the position that ingest keeps in a topic's table


class FillResult(NamedTuple):
    """What was done for one view.

    Attributes:
        view: its name.
        digest: its digest.
        rows: how many rows of its table were read; 0 where it already stood there.
        entities: how many entities got values.
        position: where it stands now.
    """

    view: str
    digest: str
    rows: int
    entities: int
    position: Position


def fill(
    project: Project, lake: Lake, plan: FeaturePlan, store: OnlineStore, *, at: Mapping[str, int] | None = None
) -> list[FillResult]:
    """Brings every stored view of the plan up to the lake.

    An as-of view becomes what the snapshot of its table says that `at` names, else its newest one. A windowed
    view that is not filled yet, or has broken entities, gets the topic's good events up to where ingest
    stands, and is followed by ingest from there on; any other stays as it is. Idempotent; a killed one leaves
    each view as it was or done.

    Raises:
        CallError: a table or snapshot is not there, or a topic was never ingested.
        Unavailable: the store is locked.
    """
    store.prepare(plan)
    return [
        _fill(project, lake, view, store)
        if isinstance(view, WindowedView)
        else _load(lake, view, store, (at or {}).get(view.table))
        for view in plan.stored
    ]


def _load(lake: Lake, view: AsOfView, store: OnlineStore, wanted: int | None) -> FillResult:
    table = lake.table(view.table)
    snapshot = table.current_snapshot() if wanted is None else table.snapshot(wanted)
    if snapshot is None:
        raise CallError(f"table {view.table!r} has no rows yet", remedy=f"headrace build {view.table}")
    position = SnapshotPosition(view.table, snapshot.id)
    if store.position(view) == position:
        return FillResult(view.name, view.digest, 0, 0, position)
    rows = as_of_rows(view, table.scan(snapshot.id)).collect()
    return FillResult(view.name, view.digest, len(rows), store.load(view, rows.to_arrow(), position), position)


def _fill(project: Project, lake: Lake, view: WindowedView, store: OnlineStore) -> FillResult:
    contract = project.contract(view.topic)
    # The position first: rows that are committed meanwhile lie behind it and are left out.
    position = lake.table(contract.table).position(_INGEST)
    if not isinstance(position, LogPosition):
        raise CallError(f"topic {view.topic!r} was never ingested", remedy="headrace ingest --until-end")
    stands = store.position(view)
    same_log = isinstance(stands, LogPosition) and stands.log_id == position.log_id
    if isinstance(stands, LogPosition) and same_log and not store.broken(view):
        return FillResult(view.name, view.digest, 0, 0, stands)
    offsets = pl.col("_log_partition").replace_strict(position.offsets, default=0, return_dtype=pl.Int64)
    events = read_input(project, lake, contract).filter(pl.col("_log_offset") < offsets)
    oldest = from_micros(now_micros() - 2 * view.longest)
    rows = rows_of(project, [view])(events).filter(pl.col(view.time) >= oldest).collect()
    return FillResult(view.name, view.digest, len(rows), store.fill(view, rows.to_arrow(), position), position)
