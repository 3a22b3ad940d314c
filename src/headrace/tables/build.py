"""Builds one table: computes the stale days, audits their rows, and publishes them in one commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from itertools import chain
from typing import Any, Literal

import msgspec
import polars as pl
import pyarrow as pa

from headrace.declare.table import ONE_DAY, Day, Table
from headrace.kernel.errors import ProjectError
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.properties import FAILED_ROWS, ROWS_DIGEST
from headrace.kernel.run import Dataset, run
from headrace.kernel.time import add_days, from_micros
from headrace.lake import Lake, LakeTable, Snapshot
from headrace.projects.project import Project
from headrace.tables.audit import audit
from headrace.tables.call import call_function, collect_frames
from headrace.tables.current import keep_current
from headrace.tables.days import check_day, make_days, refuse_lost_rows
from headrace.tables.evolution import check_change
from headrace.tables.failures import FailedRow, describe_failures, merge_failures
from headrace.tables.plan import RebuildPlan, plan_rebuild, spread_days
from headrace.tables.read import Readable, TableInput, read_input
from headrace.tables.rowwise import RowwiseCalls
from headrace.tables.twin import RowsDigest, TwinSnapshot

__all__ = ["TableBuild", "build_table", "unpin_inputs"]

_MAX_INPUT_ROWS = 2_000_000  # input rows that are in memory at once


class TableBuild(msgspec.Struct, frozen=True):
    """What a build of one table did.

    Attributes:
        name: the name of the table.
        snapshot: the table's current snapshot.
        days: the days that were made; None for the whole table.
        rows: how many rows the table has.
        inputs: input → its snapshot, or its files' digest.
        skipped: whether the table was already up to date.
        because: why the table was stale, a sentence for each reason.
        left_out: which rows of the input were left out because a rowwise function fails on them; None: no row.
        digest: the digest of its rows (tables.twin); None if it is not known.
    """

    name: str
    snapshot: int
    days: list[date] | None
    rows: int
    inputs: dict[str, SnapshotPosition | str]
    skipped: bool = False
    because: list[str] = []
    left_out: str | None = None
    digest: str | None = None

    @classmethod
    def of(
        cls, table: Table, snapshot: Snapshot, inputs: dict[str, SnapshotPosition | str], **facts: Any
    ) -> TableBuild:
        """What a build did that ended with this snapshot."""
        digest = snapshot.summary.get(ROWS_DIGEST)
        return cls(table.name, snapshot.id, rows=snapshot.rows, inputs=inputs, digest=digest, **facts)


def build_table(
    project: Project,
    lake: Lake,
    table: Table,
    *,
    code: str,
    at: Mapping[str, int] | None = None,
    twin: TwinSnapshot | None = None,
) -> TableBuild:
    """Brings one table up to date: makes its stale days (or all of it), audits and publishes them.

    The commit also records the inputs, so a build that is killed at any point leaves the old table or the new
    one, and the next build can tell which.

    Args:
        project, lake: the project and the lake of the table.
        table: the declared table.
        code: the fingerprint of its code; if it has changed, the whole table is stale.
        at: input table → the snapshot to read; the newest for tables that it does not name.
        twin: a snapshot of another lake, whose id is taken if all rows are made and are the same. The lake must
            not have it.

    Raises:
        CallError: a table that it reads does not exist.
        ProjectError: the function failed, or did not return a frame.
        Refused: the audit refused the rows, or the files of a source changed so that the table would lose a
            column or its type; the table is unchanged.
        Conflict: another build has committed to the table in the meantime.
        Unavailable: the catalog is locked or cannot be reached.
    """
    plan = plan_rebuild(project, lake, table, code=code, at=at)
    versions = {source.name: source.version for source in plan.inputs}
    datasets = [_dataset(project, source) for source in plan.inputs]
    if not plan.stale:
        snapshot = _update_properties(lake, plan, code)
        # The build that made the snapshot may have been killed before its run was recorded.
        with run(f"table {table.name}", inputs=datasets) as table_run:
            position = SnapshotPosition(table.name, snapshot.id)
            table_run.add_output(Dataset("table", table.name, position, {"rows": snapshot.rows}))
            table_run.add_facts(days=0, because=[])
        return TableBuild.of(table, snapshot, versions, days=[], skipped=True)
    with run(f"table {table.name}", inputs=datasets) as table_run:
        _pin_inputs(lake, plan)
        snapshot, schema, failed = _publish(project, lake, table, plan, code, twin)
        _unpin_older(lake, plan)
        days = None if plan.whole else plan.days
        facts = {"rows": snapshot.rows, "schema": {column.name: str(column.type) for column in schema}}
        table_run.add_output(Dataset("table", table.name, SnapshotPosition(table.name, snapshot.id), facts))
        left_out = describe_failures(table.name, failed) if failed else None
        table_run.add_facts(
            days=None if days is None else len(days), because=plan.because, failed_rows=len(failed)
        )
    return TableBuild.of(table, snapshot, versions, days=days, because=plan.because, left_out=left_out)


def _update_properties(lake: Lake, plan: RebuildPlan, code: str) -> Snapshot:
    """Records the present versions of the inputs in the properties of a table that is up to date."""
    table, properties = lake.table(plan.table), plan.properties(code)
    if any(table.property(name) != value for name, value in properties.items()):
        table.set_properties(properties)
    snapshot = table.current_snapshot()
    assert snapshot is not None
    return snapshot


def _dataset(project: Project, source: TableInput) -> Dataset:
    if isinstance(source.version, SnapshotPosition):
        return Dataset("table", source.name, source.version)
    revision = {"revision": source.revisions[source.name]} if source.revisions else {}
    return Dataset("file", project.sources[source.name].path, facts={"digest": source.version, **revision})


def _publish(
    project: Project, lake: Lake, table: Table, plan: RebuildPlan, code: str, twin: TwinSnapshot | None
) -> tuple[Snapshot, pa.Schema, list[FailedRow]]:
    """Computes, audits and commits the rows. The first part determines the columns of the table.

    Returns:
        The snapshot, the columns, and the rows of the input that a rowwise function failed on.
    """
    if table.current:
        return (*keep_current(project, lake, table, plan, plan.properties(code)), [])
    partition_by = _partition_by(lake, table)
    failed: list[FailedRow] = []
    parts = _compute_parts(project, lake, table, plan, failed)
    digest = RowsDigest(twin) if plan.whole and plan.clock is None else None  # topics have no twins
    if digest is not None:
        parts = digest.read(parts)
    first = next(parts)
    if plan.files:
        sources = [project.sources[name] for name in plan.files]
        check_change(table, lake.table(table.name), first, sources)
    stored = lake.ensure(table.name, first.schema, partition_by, exact=plan.whole)

    def properties(current: Mapping[str, str]) -> dict[str, str]:
        """Evaluated again at the commit, when all parts are computed."""
        recorded = {FAILED_ROWS: _merge_failures(table, plan, current, failed)} if table.rowwise else {}
        return {**plan.properties(code), **recorded}

    def facts(current: Mapping[str, str]) -> dict[str, str]:
        rows_digest = {} if digest is None else {ROWS_DIGEST: digest.value}
        return {**properties(current), **plan.revisions, **rows_digest}

    days = None if plan.whole or table.partition_by is None else (table.partition_by.column, plan.days or [])
    snapshot = stored.overwrite(
        chain([first], parts),
        partitions=days,
        facts=facts,
        properties=properties,
        expect=plan.expect,
        snapshot_id=lambda: None if digest is None else digest.snapshot_id(),
    )
    return snapshot, first.schema, failed


def _merge_failures(
    table: Table, plan: RebuildPlan, current: Mapping[str, str], failed: Sequence[FailedRow]
) -> str:
    """The property FAILED_ROWS after the build, given the table's properties."""
    day = table.partition_by
    if plan.whole or day is None:
        return merge_failures(None, (), failed)
    read = spread_days(set(plan.days or []), Day(day.column, before=day.after, after=day.before))
    return merge_failures(current.get(FAILED_ROWS), read, failed)


def _partition_by(lake: Lake, table: Table) -> Sequence[tuple[str, Literal["day"]]]:
    """The declared partition of the table, in the lake's form.

    Raises:
        ProjectError: the table in the lake has another partition.
    """
    declared: tuple[tuple[str, Literal["day"]], ...] = ()
    if table.partition_by is not None:
        declared = ((table.partition_by.column, "day"),)
    stored = lake.table(table.name).partition_by() if lake.table_exists(table.name) else declared
    if stored != declared:
        previous, declared_now = (
            " and ".join(f"by the {kind} of {column!r}" for column, kind in partition) or "not at all"
            for partition in (stored, declared)
        )
        raise ProjectError(
            f"table {table.name!r} is partitioned {previous} in the lake, but declared {declared_now}",
            where=str(table.place),
            remedy=f"headrace drop-table {table.name}, then headrace build; or give the table another name.",
        )
    return declared


def _compute_parts(
    project: Project, lake: Lake, table: Table, plan: RebuildPlan, failed: list[FailedRow]
) -> Iterator[pa.Table]:
    """The audited rows, a group of days at a time; at least one table, which may be empty.

    Adds the rows of the input that a rowwise function fails on to `failed`.
    """
    reads = project.inputs(table)
    frames = [
        read_input(project, lake, declared, source.snapshot)
        for declared, source in zip(reads, plan.inputs, strict=True)
    ]
    options = _options(table, plan)
    if table.partition_by is None or not plan.days:
        rows = _compute_whole(table, plan, reads, frames, options, failed)
        if table.partition_by is not None:
            check_day(table, table.partition_by, rows)
            refuse_lost_rows(table, table.partition_by, plan, rows)
        yield _arrow(audit(table, rows))
        return
    total = 0
    for group in _groups(plan, table.partition_by):
        size = _rows_read(plan, table.partition_by, group)
        total += size
        calls = RowwiseCalls(table, reads[0], size, options) if table.rowwise else None
        rows = make_days(table, table.partition_by, plan, frames, options, group, calls)
        failed += [] if calls is None else calls.failed
        yield _arrow(audit(table, rows))
    _check_failures(plan, failed, total)


def _compute_whole(
    table: Table,
    plan: RebuildPlan,
    reads: Sequence[Readable],
    frames: Sequence[pl.LazyFrame],
    options: Mapping[str, datetime],
    failed: list[FailedRow],
) -> pl.DataFrame:
    """The rows of a table without days."""
    try:
        return collect_frames(table, [call_function(table, frames, options)])[0]
    except ProjectError:
        if not table.rowwise:
            raise
    rows = frames[0].collect()
    calls = RowwiseCalls(table, reads[0], len(rows), options)
    result = calls.call(rows)
    failed += calls.failed
    _check_failures(plan, failed, len(rows))
    return result


def _check_failures(plan: RebuildPlan, failed: Sequence[FailedRow], rows: int) -> None:
    """Refuses a table whose function fails on every row: then the function is wrong, not the rows.

    Raises:
        ProjectError: all of the table is made, and the function failed on all `rows` of its input.
    """
    if failed and plan.whole and len(failed) >= rows:
        raise ProjectError(f"{failed[0].error} (on every row)", where=failed[0].where)


def _options(table: Table, plan: RebuildPlan) -> dict[str, datetime]:
    if not table.takes_now:
        return {}
    if plan.clock is None:
        raise ProjectError(
            "its function takes `now`, but none of its inputs has an arrival time",
            where=str(table.place),
            remedy="`now` is the latest arrival in a topic: read a topic, or a table made from a topic.",
        )
    return {"now": from_micros(plan.clock)}


def _groups(plan: RebuildPlan, day: Day) -> Iterator[list[date]]:
    """Groups of neighbouring days, as large as the limit on input rows in memory allows."""
    group: list[date] = []
    for next_day in plan.days or []:
        extended = [*group, next_day]
        if group and (next_day - group[-1] > ONE_DAY or _rows_read(plan, day, extended) > _MAX_INPUT_ROWS):
            yield group
            extended = [next_day]
        group = extended
    if group:
        yield group


def _rows_read(plan: RebuildPlan, day: Day, group: Sequence[date]) -> int:
    first, last = add_days(group[0], -day.before), add_days(group[-1], day.after)
    return sum(rows for d, rows in plan.rows.items() if first <= d <= last)


def _arrow(rows: pl.DataFrame) -> pa.Table:
    return rows.to_arrow(compat_level=pl.CompatLevel.oldest())


# --- pins: they keep the inputs of a build until the next build is published ---


def _pin(table: str, snapshot: int) -> str:
    return f"input-of-{table}-{snapshot}"


def _pin_inputs(lake: Lake, plan: RebuildPlan) -> None:
    for source in plan.inputs:
        if source.snapshot is not None:
            lake.table(source.name).create_tag(_pin(plan.table, source.snapshot), source.snapshot)


def _unpin_older(lake: Lake, plan: RebuildPlan) -> None:
    for source in plan.inputs:
        if source.snapshot is None:
            continue
        table: LakeTable = lake.table(source.name)
        for name, snapshot in table.tags().items():
            if name == _pin(plan.table, snapshot) and snapshot != source.snapshot:
                table.remove_tag(name)


def unpin_inputs(lake: Lake, table: str) -> None:
    """Removes the pins on the inputs of a table that is about to be dropped."""
    for name in lake.list_tables():
        input_table = lake.table(name)
        for pin, snapshot in input_table.tags().items():
            if pin == _pin(table, snapshot):
                input_table.remove_tag(pin)
