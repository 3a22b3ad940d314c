"""Computes the audited rows of a table, a group of partitions at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime

import msgspec
import polars as pl
import pyarrow as pa

from headrace.declare.partitioning import Partitioning
from headrace.declare.table import Table
from headrace.kernel.errors import ProjectError
from headrace.kernel.time import from_micros
from headrace.lake import Lake
from headrace.projects.project import Project
from headrace.tables.audits.rows import audit
from headrace.tables.call import call_function, collect_frames
from headrace.tables.failures import FailedRow
from headrace.tables.make import check_partition_column, make_partitions, refuse_lost_rows
from headrace.tables.plan import RebuildPlan
from headrace.tables.read import Readable, read_input
from headrace.tables.rowwise import RowwiseCalls

__all__ = ["ComputedPart", "check_failures", "compute_parts", "function_options"]

_MAX_INPUT_ROWS = 2_000_000  # input rows that are in memory at once
_MAX_PARTITIONS = 32  # partitions whose rows are written before the next are computed


class ComputedPart(msgspec.Struct, frozen=True):
    """The rows of a group of partitions.

    Attributes:
        partitions: their numbers; none if the table is made as a whole.
        rows: the audited rows.
        failed: the rows of the input that its function failed on.
    """

    partitions: list[int]
    rows: pa.Table
    failed: list[FailedRow] = []


def compute_parts(
    project: Project, lake: Lake, table: Table, plan: RebuildPlan, without: Collection[int] = ()
) -> Iterator[ComputedPart]:
    """Computes the rows, a group of partitions at a time; of a table that is made as a whole, one part.

    Args:
        project, lake: the project and the lake of the table.
        table: the declared table.
        plan: its plan.
        without: partitions to leave out, because their rows are written.

    Raises:
        ProjectError: the function failed.
        Refused: the audit refused rows, or rows belong to no partition.
    """
    reads = project.inputs(table)
    frames = [
        read_input(project, lake, declared, source.snapshot)
        for declared, source in zip(reads, plan.inputs, strict=True)
    ]
    options = function_options(table, plan)
    partitioning = table.partition_by
    if partitioning is None or not plan.partitions:
        rows, failed = _compute_whole(table, reads, frames, options)
        if partitioning is not None:
            check_partition_column(table, partitioning, rows)
            refuse_lost_rows(table, partitioning, plan, rows)
        yield ComputedPart([], _to_arrow(table, audit(table, rows)), failed)
        return
    for group in _groups(plan, partitioning, without):
        calls = None
        if table.rowwise:
            calls = RowwiseCalls(table, reads[0], _rows_read(plan, partitioning, group), options)
        rows = make_partitions(table, partitioning, plan, frames, options, group, calls)
        yield ComputedPart(group, _to_arrow(table, audit(table, rows)), [] if calls is None else calls.failed)


def _compute_whole(
    table: Table,
    reads: Sequence[Readable],
    frames: Sequence[pl.LazyFrame],
    options: Mapping[str, datetime],
) -> tuple[pl.DataFrame, list[FailedRow]]:
    """The rows of a table that is made as a whole, and the rows of its input that the function failed on."""
    try:
        return collect_frames(table, [call_function(table, frames, options)])[0], []
    except ProjectError:
        if not table.rowwise:
            raise
    rows = frames[0].collect()
    calls = RowwiseCalls(table, reads[0], len(rows), options)
    result = calls.call(rows)
    check_failures(calls.failed, len(rows))
    return result, calls.failed


def check_failures(failed: Sequence[FailedRow], rows: int) -> None:
    """Refuses a table whose function fails on every row: then the function is wrong, not the rows.

    Raises:
        ProjectError: the function failed on all `rows` of the input.
    """
    if failed and len(failed) >= rows:
        raise ProjectError(f"{failed[0].error} (on every row)", where=failed[0].where)


def function_options(table: Table, plan: RebuildPlan) -> dict[str, datetime]:
    """`now`, if the function takes it.

    Raises:
        ProjectError: none of the inputs has an arrival time.
    """
    if not table.takes_now:
        return {}
    if plan.clock is None:
        raise ProjectError(
            "its function takes `now`, but none of its inputs has an arrival time",
            where=str(table.place),
            remedy="`now` is the latest arrival in a topic: read a topic, or a table made from a topic.",
        )
    return {"now": from_micros(plan.clock)}


def _groups(plan: RebuildPlan, partitioning: Partitioning, without: Collection[int]) -> Iterator[list[int]]:
    """Groups of neighbouring partitions, as large as the limit on input rows in memory allows."""
    group: list[int] = []
    for number in plan.partitions or []:
        if number in without:
            continue
        extended = [*group, number]
        is_apart = group and number - group[-1] > 1
        if (
            is_apart
            or len(group) >= _MAX_PARTITIONS
            or (group and _rows_read(plan, partitioning, extended) > _MAX_INPUT_ROWS)
        ):
            yield group
            extended = [number]
        group = extended
    if group:
        yield group


def _rows_read(plan: RebuildPlan, partitioning: Partitioning, group: Sequence[int]) -> int:
    first, last = partitioning.window(group[0], group[-1])
    return sum(rows for number, rows in plan.rows.items() if first <= number <= last)


def _to_arrow(table: Table, rows: pl.DataFrame) -> pa.Table:
    """The rows as Arrow.

    Raises:
        ProjectError: a column has a type that Arrow lacks.
    """
    try:
        return rows.to_arrow(compat_level=pl.CompatLevel.oldest())
    except pa.ArrowInvalid as error:
        wide = [f"{name} is {dtype}" for name, dtype in rows.schema.items() if "Int128" in str(dtype)]
        raise ProjectError(
            f"its rows cannot be stored in a table: {', '.join(wide) or error}",
            where=f"table {table.name} ({table.place})",
            remedy="Cast whole numbers of 128 bits to Int64, pl.Decimal or String in the function.",
        ) from error
