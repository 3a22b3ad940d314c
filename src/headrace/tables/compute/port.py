"""The port of computing: pieces of a table become data files, which the build's process commits once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import attrs
import msgspec
import polars as pl
import pyarrow as pa

from headrace.declare.table import Table
from headrace.kernel.errors import ProjectError
from headrace.lake import Lake, LakeTable
from headrace.lake.files import Unwritable, WrittenFile
from headrace.projects.project import Project
from headrace.tables.failures import FailedRow
from headrace.tables.joining import can_join
from headrace.tables.parts import ComputedPart, Piece, compute_piece
from headrace.tables.plan import RebuildPlan, spell_partitions
from headrace.tables.twin import RowsDigest

__all__ = ["Compute", "Prepare", "TableJob", "WrittenPart", "write_part", "write_piece"]


class WrittenPart(msgspec.Struct, frozen=True):
    """A piece of a table whose rows are written.

    Attributes:
        numbers: those of the piece.
        files: its data files.
        columns: its columns.
        failed: the rows of the input that a rowwise function failed on.
        rows_read: how many rows of the input a table without partitions has read for it.
        digest: the digest of its rows; None: the build needs none.
    """

    numbers: list[int]
    files: list[WrittenFile]
    columns: list[str]
    failed: list[FailedRow] = []
    rows_read: int = 0
    digest: RowsDigest | None = None


@attrs.frozen
class TableJob:
    """What the pieces of one table have in common.

    Attributes:
        project, lake: the project and the lake of the table.
        table: the declared table.
        plan: its plan.
        columns: the columns that every piece must have, those of the first; empty before it is made.
    """

    project: Project
    lake: Lake
    table: Table
    plan: RebuildPlan
    columns: list[str]


Prepare = Callable[[ComputedPart], LakeTable]
"""Makes the table able to hold the rows, given the first of them, and returns it."""


class Compute(Protocol):
    """Computes and writes pieces of a table, at least one; yields them as they are written. The process of the
    build makes the first of them, whose columns are the table's, and calls `prepare` once.

    Raises:
        ProjectError: the function failed, or a piece has other columns than the first.
        Refused: the audit refused rows, or rows belong to no partition.
        Unavailable: what computes them does not answer.
    """

    def __call__(self, job: TableJob, pieces: Sequence[Piece], prepare: Prepare) -> Iterator[WrittenPart]: ...


def write_piece(
    job: TableJob,
    piece: Piece,
    prepare: Prepare | None = None,
    frames: Sequence[pl.LazyFrame] | None = None,
) -> WrittenPart:
    """Computes a piece and writes its rows.

    Args:
        job: the table.
        piece: the piece.
        prepare: for the first piece; None: the table is prepared.
        frames: its inputs, if they were read already.

    Raises:
        Unwritable: a value that the table cannot hold; else as Compute.
    """
    return write_part(
        job, piece, compute_piece(job.project, job.lake, job.table, job.plan, piece, frames), prepare
    )


def write_part(job: TableJob, piece: Piece, part: ComputedPart, prepare: Prepare | None = None) -> WrittenPart:
    """Writes the computed rows of a piece. See write_piece."""
    columns = job.columns or part.rows.column_names
    _check_columns(job.table, piece, part.rows, columns)
    stored = prepare(part) if prepare else job.lake.table(job.table.name)
    _check_types(job.table, piece, part.rows.schema, stored.schema())
    try:
        files = stored.write([part.rows])
    except Unwritable as error:
        what = f"{error.what} (in {_describe(job.table, piece)})"
        raise Unwritable(what, where=error.where, remedy=error.remedy) from error
    has_digest = job.plan.whole and job.plan.clock is None
    digest = RowsDigest().add(part.rows) if has_digest else None
    return WrittenPart(piece.numbers, files, columns, part.failed, part.rows_read, digest)


def _check_columns(table: Table, piece: Piece, rows: pa.Table, columns: Sequence[str]) -> None:
    """Refuses rows with other columns than those before them: what they lack would be null.

    Raises:
        ProjectError: they have other columns.
    """
    differing = sorted(set(rows.column_names) ^ set(columns))
    if differing:
        raise ProjectError(
            f"{table.name} returns other columns for {_describe(table, piece)} than for earlier ones:"
            f" {', '.join(differing)}",
            where=str(table.place),
            remedy="Return the same columns for every input: name them in a select.",
        )


def _check_types(table: Table, piece: Piece, schema: pa.Schema, stored: pa.Schema) -> None:
    """Refuses rows with a column of a type that cannot join that of the rows before them (tables.joining).

    Raises:
        ProjectError: a column has such a type.
    """
    before = pl.DataFrame(stored.empty_table()).schema
    for name, dtype in pl.DataFrame(schema.empty_table()).schema.items():
        if not can_join(dtype, before[name]):
            raise ProjectError(
                f"{table.name} returns column {name!r} as {dtype} for {_describe(table, piece)},"
                f" and as {before[name]} for earlier ones",
                where=str(table.place),
                remedy="Return one type for every input: cast the column in the function.",
            )


def _describe(table: Table, piece: Piece) -> str:
    partitioning = table.partition_by
    return "some rows" if partitioning is None else spell_partitions(partitioning, piece.numbers)
