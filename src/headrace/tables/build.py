"""The build of one table: compute what is stale, audit it, publish it in one commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Literal

import msgspec
import polars as pl
import pyarrow as pa

from headrace.declare.table import ONE_DAY, Day, Table
from headrace.kernel.errors import ProjectError
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.properties import LATEST_ARRIVAL
from headrace.kernel.run import Dataset, run
from headrace.kernel.time import add_days, from_micros
from headrace.lake import Lake, LakeTable, Snapshot
from headrace.projects.project import Project
from headrace.tables.audit import audit
from headrace.tables.call import call_function, collect_frames
from headrace.tables.current import keep_current
from headrace.tables.days import check_day, make_days, refuse_lost_rows
from headrace.tables.plan import RebuildPlan, plan_rebuild
from headrace.tables.read import TableInput, read_input

__all__ = ["TableBuild", "build_table", "unpin_inputs"]

_ROWS = 2_000_000  # input rows that are held at once


class TableBuild(msgspec.Struct, frozen=True):
    """What a build made.

    Attributes:
        name: the table.
        snapshot: the snapshot that readers now get.
        days: the days that were made; None: the whole table.
        rows: how many rows the table has.
        inputs: input → its snapshot, or its files' digest.
        skipped: nothing was to be done.
        because: why it was stale.
    """

    name: str
    snapshot: int
    days: list[date] | None
    rows: int
    inputs: dict[str, SnapshotPosition | str]
    skipped: bool
    because: list[str] = []


def build_table(
    project: Project, lake: Lake, table: Table, *, code: str, at: Mapping[str, int] | None = None
) -> TableBuild:
    """Brings one table up to date: makes its stale days (or all of it), audits them, publishes them.

    The commit carries what the table was made from, so a build that is killed at any point leaves the
    old table or the new one, and the next build knows which.

    Args:
        project, lake: where it lives.
        table: the declared table.
        code: the fingerprint of its code; another one makes all of it stale.
        at: input table → the snapshot to read; those not named are read at their newest.

    Raises:
        CallError: a table that it reads is not there.
        ProjectError: the function failed, or gave something else than a frame.
        Refused: the audit said no; the table is as it was.
        Conflict: another build of the table was faster.
        Unavailable: the catalog is locked or away.
    """
    plan = plan_rebuild(project, lake, table, code=code, at=at)
    inputs = {one.name: one.version for one in plan.inputs}
    if not plan.stale:
        made = lake.table(table.name)
        if any(made.property(name) != value for name, value in plan.properties(code).items()):
            made.set_properties(plan.properties(code))
        head = made.current_snapshot()
        assert head is not None
        # Who made it may have been killed before its run was told.
        with run(f"table {table.name}", inputs=[_dataset(project, one) for one in plan.inputs]) as this:
            position = SnapshotPosition(table.name, head.id)
            this.add_output(Dataset("table", table.name, position, {"rows": head.rows}))
            this.add_facts(days=0, because=[])
        return TableBuild(table.name, head.id, [], head.rows, inputs, skipped=True)
    with run(f"table {table.name}", inputs=[_dataset(project, one) for one in plan.inputs]) as this:
        _pin_inputs(lake, plan)
        snapshot, schema = _publish(project, lake, table, plan, code)
        _unpin_older(lake, plan)
        days = None if plan.whole else plan.days
        facts = {"rows": snapshot.rows, "schema": {f.name: str(f.type) for f in schema}}
        this.add_output(Dataset("table", table.name, SnapshotPosition(table.name, snapshot.id), facts))
        this.add_facts(days=None if days is None else len(days), because=plan.because)
    return TableBuild(table.name, snapshot.id, days, snapshot.rows, inputs, skipped=False, because=plan.because)


def _dataset(project: Project, one: TableInput) -> Dataset:
    if isinstance(one.version, SnapshotPosition):
        return Dataset("table", one.name, one.version)
    return Dataset("file", project.sources[one.name].path, facts={"digest": one.version})


def _publish(
    project: Project, lake: Lake, table: Table, plan: RebuildPlan, code: str
) -> tuple[Snapshot, pa.Schema]:
    """Computes, audits and commits; the table is made, or its columns are, with the first rows."""
    if table.current:
        return keep_current(project, lake, table, plan, plan.properties(code))
    partition_by = _partition_by(lake, table)
    pieces = _pieces(project, lake, table, plan)
    first = next(pieces)
    made = lake.ensure(table.name, first.schema, partition_by, exact=plan.whole)
    properties = plan.properties(code)
    facts = dict(properties) if plan.clock is None else {**properties, LATEST_ARRIVAL: str(plan.clock)}
    days = None if plan.whole or table.partition_by is None else (table.partition_by.column, plan.days or [])
    snapshot = made.overwrite(
        _chained(first, pieces), partitions=days, facts=facts, properties=properties, expect=plan.expect
    )
    return snapshot, first.schema


def _partition_by(lake: Lake, table: Table) -> Sequence[tuple[str, Literal["day"]]]:
    """The table's partition, as the lake takes it.

    Raises:
        ProjectError: the table in the lake is partitioned otherwise.
    """
    declared: tuple[tuple[str, Literal["day"]], ...] = ()
    if table.partition_by is not None:
        declared = ((table.partition_by.column, "day"),)
    stored = lake.table(table.name).partition_by() if lake.table_exists(table.name) else declared
    if stored != declared:
        was, now = (
            " and ".join(f"by the {kind} of {column!r}" for column, kind in one) or "not at all"
            for one in (stored, declared)
        )
        raise ProjectError(
            f"table {table.name!r} is partitioned {was} in the lake, and now declared {now}",
            where=str(table.place),
            remedy=f"headrace drop-table {table.name}, then headrace build; or give the table another name.",
        )
    return declared


def _chained(first: pa.Table, rest: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield first
    yield from rest


def _pieces(project: Project, lake: Lake, table: Table, plan: RebuildPlan) -> Iterator[pa.Table]:
    """The audited rows, a group of days at a time; at least one table, be it empty."""
    frames = [
        read_input(project, lake, one, version.snapshot)
        for one, version in zip(project.inputs(table), plan.inputs, strict=True)
    ]
    options = _options(table, plan)
    if table.partition_by is None or not plan.days:
        rows = collect_frames(table, [call_function(table, frames, options)])[0]
        if table.partition_by is not None:
            check_day(table, table.partition_by, rows)
            refuse_lost_rows(table, table.partition_by, plan, rows)
        yield _arrow(audit(table, rows))
        return
    for group in _groups(plan, table.partition_by):
        rows = make_days(table, table.partition_by, plan, frames, options, group)
        yield _arrow(audit(table, rows))


def _options(table: Table, plan: RebuildPlan) -> dict[str, datetime]:
    if not table.takes_now:
        return {}
    if plan.clock is None:
        raise ProjectError(
            "it takes `now`, but nothing that it reads has a clock",
            where=str(table.place),
            remedy="`now` is the latest arrival of a topic: read one, or a table made from one.",
        )
    return {"now": from_micros(plan.clock)}


def _groups(plan: RebuildPlan, day: Day) -> Iterator[list[date]]:
    """Neighbouring days, as many as keep the input rows held at once within bounds."""
    group: list[date] = []
    for this in plan.days or []:
        wider = [*group, this]
        if group and (this - group[-1] > ONE_DAY or _rows_read(plan, day, wider) > _ROWS):
            yield group
            wider = [this]
        group = wider
    if group:
        yield group


def _rows_read(plan: RebuildPlan, day: Day, group: Sequence[date]) -> int:
    first, last = add_days(group[0], -day.before), add_days(group[-1], day.after)
    return sum(rows for d, rows in plan.rows.items() if first <= d <= last)


def _arrow(rows: pl.DataFrame) -> pa.Table:
    return rows.to_arrow(compat_level=pl.CompatLevel.oldest())


# --- pins: an input stays until the next build has been published --------------------------------


def _pin(table: str, snapshot: int) -> str:
    return f"input-of-{table}-{snapshot}"


def _pin_inputs(lake: Lake, plan: RebuildPlan) -> None:
    for one in plan.inputs:
        if one.snapshot is not None:
            lake.table(one.name).create_tag(_pin(plan.table, one.snapshot), one.snapshot)


def _unpin_older(lake: Lake, plan: RebuildPlan) -> None:
    for one in plan.inputs:
        if one.snapshot is None:
            continue
        read: LakeTable = lake.table(one.name)
        for name, snapshot in read.tags().items():
            if name == _pin(plan.table, snapshot) and snapshot != one.snapshot:
                read.remove_tag(name)


def unpin_inputs(lake: Lake, table: str) -> None:
    """Lets go of the inputs that a table which is about to be dropped was made from."""
    for name in lake.list_tables():
        read = lake.table(name)
        for pin, snapshot in read.tags().items():
            if pin == _pin(table, snapshot):
                read.remove_tag(pin)
