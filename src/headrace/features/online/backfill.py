"""Fills the online store from the lake, which a build does before a plan can be served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import polars as pl

from headrace.features.offline.rowwise import codes_of, is_of_other_code, rows_of
from headrace.features.online.compute.local import LocalStates
from headrace.features.online.compute.port import StateCompute, StateJob
from headrace.features.online.compute.ray import RayStates
from headrace.features.online.keys import KeySchema
from headrace.features.online.store import OnlineStore
from headrace.features.plan import AsOfView, FeaturePlan, WindowedView
from headrace.kernel.errors import CallError, ProjectError
from headrace.kernel.position import LogPosition, Position, SnapshotPosition
from headrace.kernel.time import from_micros
from headrace.kernel.uptime import steady_micros
from headrace.lake import Lake
from headrace.projects.project import Project
from headrace.tables.failures import describe_failures
from headrace.tables.read import read_input

__all__ = ["FillResult", "fill", "fill_again"]

_INGEST = "ingest"  # the position that ingest keeps in a topic's table


class FillResult(NamedTuple):
    """The result of a fill for one view.

    Attributes:
        view: the view's name.
        digest: the view's digest.
        rows: how many rows of its table were read; 0 if the view was already at the position.
        entities: how many entities got values.
        position: the view's position after the fill.
        left_out: which events were left out because a rowwise function fails on them; None: no event.
    """

    view: str
    digest: str
    rows: int
    entities: int
    position: Position
    left_out: str | None = None


def fill(
    project: Project,
    lake: Lake,
    plan: FeaturePlan,
    store: OnlineStore,
    *,
    at: Mapping[str, int] | None = None,
) -> list[FillResult]:
    """Brings every stored view of the plan up to date with the lake.

    An as-of view gets the snapshot of its table that `at` names, else the newest one. A windowed view that is
    not filled yet, has broken entities, or has the events of an earlier topic of the name, gets the topic's
    good events up to ingest's position, and ingest keeps it up to date afterwards. Other windowed views do not
    change. Idempotent; a killed fill leaves each
    view unchanged or filled.

    Args:
        project: the project that declares the topics and rowwise tables of the plan's views.
        lake: the lake with their tables.
        plan: the plan whose views to fill.
        store: the store to fill.
        at: table → the snapshot to load.

    Raises:
        CallError: a table or snapshot does not exist, or a topic was never ingested.
        ProjectError: a rowwise function fails as a whole; or it was edited since the plan was compiled, and its
            view must be filled: it would get the values of another function.
        Unavailable: the store is locked.
    """
    store.prepare(plan)
    return [
        _fill_windowed(project, lake, view, store)
        if isinstance(view, WindowedView)
        else _load_as_of(project, lake, plan, view, store, (at or {}).get(view.table))
        for view in plan.stored
    ]


def _load_as_of(
    project: Project, lake: Lake, plan: FeaturePlan, view: AsOfView, store: OnlineStore, wanted: int | None
) -> FillResult:
    table = lake.table(view.table)
    snapshot = table.current_snapshot() if wanted is None else table.snapshot(wanted)
    if snapshot is None:
        raise CallError(f"table {view.table!r} has no rows yet", remedy=f"headrace build {view.table}")
    position = SnapshotPosition(view.table, snapshot.id)
    if store.position(view) == position:
        return FillResult(view.name, view.digest, 0, 0, position)
    job = StateJob(view, KeySchema.of(plan, view), snapshot.id, snapshot.rows, steady_micros())
    parts = list(_find_compute(project, lake)(job))
    entities = store.load_states(view, [state for part in parts for state in part.states], position)
    return FillResult(view.name, view.digest, sum(part.rows for part in parts), entities, position)


def _find_compute(project: Project, lake: Lake) -> StateCompute:
    """What computes the states of entities, by the setting `compute`."""
    is_local = project.settings.tables.compute == "local"
    return LocalStates(lake) if is_local else RayStates(project.settings)


def _fill_windowed(project: Project, lake: Lake, view: WindowedView, store: OnlineStore) -> FillResult:
    current = store.position(view)
    if (
        isinstance(current, LogPosition)
        and not store.count_broken(view)
        and current.log_id == _table_position(project, lake, view).log_id
    ):
        return FillResult(view.name, view.digest, 0, 0, current)
    if view.code and is_of_other_code(view, codes_of(project)):
        raise ProjectError(f"the function of its table {view.table} was edited since")
    return fill_again(project, lake, view, store)


def _table_position(project: Project, lake: Lake, view: WindowedView) -> LogPosition:
    position = lake.table(project.contract(view.topic).table).position(_INGEST)
    if not isinstance(position, LogPosition):
        raise CallError(f"topic {view.topic!r} was never ingested", remedy="headrace ingest --until-end")
    return position


def fill_again(project: Project, lake: Lake, view: WindowedView, store: OnlineStore) -> FillResult:
    """Replaces a windowed view's state by the topic's good events up to ingest's position.

    Raises:
        CallError, ProjectError, Unavailable: as `fill`.
    """
    contract = project.contract(view.topic)
    # The position is read first, so that rows committed meanwhile are after it and are left out.
    position = _table_position(project, lake, view)
    offsets = pl.col("_log_partition").replace_strict(position.offsets, default=0, return_dtype=pl.Int64)
    events = read_input(project, lake, contract).filter(pl.col("_log_offset") < offsets)
    oldest = from_micros(view.earliest(steady_micros() - view.longest))
    rows, failed = rows_of(project, [view], since=oldest)(events)
    entities = store.fill(view, rows.to_arrow(), position)
    left_out = describe_failures(str(view.rowwise), failed) if failed else None
    return FillResult(view.name, view.digest, len(rows), entities, position, left_out)
