"""Divides a table into pieces, and computes the audited rows of each."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import accumulate

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

__all__ = [
    "PIECE_LIMITS",
    "ComputedPart",
    "Piece",
    "check_failures",
    "compute_piece",
    "divide",
    "function_options",
    "group_files",
    "read_inputs",
]

PIECE_LIMITS = (2_000_000, 32)
"""The most input rows of a piece that has several partitions or files, and the most partitions."""


class Piece(msgspec.Struct, frozen=True):
    """A piece of a table that is computed at once.

    Attributes:
        numbers: its partitions, neighbours in order; of a table without partitions its place among the pieces;
            none if the table is one piece.
        files: the data files of the input of a rowwise table without partitions; None: all of the input.
    """

    numbers: list[int] = []
    files: list[str] | None = None


class ComputedPart(msgspec.Struct, frozen=True):
    """The rows of a piece.

    Attributes:
        rows: the audited rows.
        failed: the rows of the input that its function failed on.
        rows_read: how many rows of the input a table without partitions has read for it.
    """

    rows: pa.Table
    failed: list[FailedRow] = []
    rows_read: int = 0


def divide(lake: Lake, table: Table, plan: RebuildPlan) -> list[Piece]:
    """The pieces of a build: as many input rows are in memory at once as one of them has.

    Two divisions of one plan are equal, so a piece that a killed build has written is known by its numbers.
    """
    if table.partition_by is not None and plan.partitions:
        return [Piece(group) for group in _groups(plan, table.partition_by)]
    snapshot = plan.inputs[0].snapshot if table.rowwise else None
    if snapshot is None or table.partition_by is not None:
        return [Piece()]
    groups = group_files(lake, plan.inputs[0].name, snapshot)
    return [Piece([number], files) for number, files in enumerate(groups)]


def group_files(lake: Lake, name: str, snapshot: int) -> list[list[str]]:
    """The paths of a snapshot's data files, in groups that may be in memory at once; at least one group."""
    groups, rows = [list[str]()], 0
    for file in sorted(lake.table(name).files(snapshot), key=lambda file: file.path):
        if groups[-1] and rows + file.rows > PIECE_LIMITS[0]:
            groups.append([])
            rows = 0
        groups[-1].append(file.path)
        rows += file.rows
    return groups


def read_inputs(
    project: Project, lake: Lake, table: Table, plan: RebuildPlan, piece: Piece
) -> list[pl.LazyFrame]:
    """The inputs of the table that a piece is made of, in their order. Those with partitions are not restricted
    to those that the piece reads."""
    return [
        read_input(project, lake, declared, source.snapshot, only=piece.files)
        for declared, source in zip(project.inputs(table), plan.inputs, strict=True)
    ]


def compute_piece(
    project: Project,
    lake: Lake,
    table: Table,
    plan: RebuildPlan,
    piece: Piece,
    frames: Sequence[pl.LazyFrame] | None = None,
) -> ComputedPart:
    """Computes the rows of a piece.

    Args:
        project, lake: the project and the lake of the table.
        table: the declared table.
        plan: its plan.
        piece: the piece, as `divide` gives it.
        frames: its inputs, if they were read already (`read_inputs`).

    Raises:
        ProjectError: the function failed.
        Refused: the audit refused rows, or rows belong to no partition.
    """
    reads = project.inputs(table)
    if frames is None:
        frames = read_inputs(project, lake, table, plan, piece)
    options = function_options(table, plan)
    partitioning = table.partition_by
    if partitioning is not None and plan.partitions:
        calls = None
        if table.rowwise:
            rows_read = _row_counter(plan, partitioning)(piece.numbers)
            calls = RowwiseCalls(table, reads[0], rows_read, options)
        rows = make_partitions(table, partitioning, plan, frames, options, piece.numbers, calls)
        return ComputedPart(_to_arrow(table, audit(table, rows)), [] if calls is None else calls.failed)
    rows, failed, read = _compute_whole(table, reads, frames, options)
    if partitioning is not None:
        check_partition_column(table, partitioning, rows)
        refuse_lost_rows(table, partitioning, plan, rows)
    return ComputedPart(_to_arrow(table, audit(table, rows)), failed, read)


def _compute_whole(
    table: Table, reads: Sequence[Readable], frames: Sequence[pl.LazyFrame], options: Mapping[str, datetime]
) -> tuple[pl.DataFrame, list[FailedRow], int]:
    """The rows that are made of whole inputs, the rows of the input that a rowwise function failed on, and how
    many it has read (0 of a function that is not rowwise)."""
    if not table.rowwise:
        return collect_frames(table, [call_function(table, frames, options)])[0], [], 0
    (frame,) = frames
    try:
        result = call_function(table, [frame], options)
        rows, count = collect_frames(table, [result, frame.select(pl.len())])
    except ProjectError:
        read = frame.collect()
        calls = RowwiseCalls(table, reads[0], len(read), options)
        return calls.call(read), calls.failed, len(read)
    return rows, [], int(count.item())


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


def _groups(plan: RebuildPlan, partitioning: Partitioning) -> Iterator[list[int]]:
    """Groups of neighbouring partitions, as large as the limit on input rows in memory allows."""
    rows_read, group = _row_counter(plan, partitioning), list[int]()
    for number in plan.partitions or []:
        extended = [*group, number]
        is_apart = group and number - group[-1] > 1
        if is_apart or len(group) >= PIECE_LIMITS[1] or (group and rows_read(extended) > PIECE_LIMITS[0]):
            yield group
            extended = [number]
        group = extended
    if group:
        yield group


def _row_counter(plan: RebuildPlan, partitioning: Partitioning) -> Callable[[Sequence[int]], int]:
    """A function that tells how many input rows a group of neighbouring partitions reads."""
    numbers = sorted(plan.rows)
    totals = [0, *accumulate(plan.rows[number] for number in numbers)]

    def rows_read(group: Sequence[int]) -> int:
        first, last = partitioning.window(group[0], group[-1])
        return totals[bisect_right(numbers, last)] - totals[bisect_left(numbers, first)]

    return rows_read


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
