"""Finds which partitions of a table an input has rows for, and which of them changed between two snapshots.

If each partition of the input lies in one partition of the table (days in months, the same parts), the lake's
metadata tell. Otherwise the input's column is read: of all rows to count them, and of the files that changed to
find the rows that changed.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import polars as pl

from headrace.declare.event import Contract
from headrace.declare.partitioning import Grain, Partitioning, number_of, start_of
from headrace.declare.table import Table
from headrace.kernel.counts import plural
from headrace.kernel.errors import ProjectError, Refused
from headrace.lake import Lake
from headrace.lake.changes import PartitionColumn
from headrace.lake.partitions import bucket_count
from headrace.projects.project import Project
from headrace.tables.partitions import input_numbers, is_key, is_moment, partition_numbers
from headrace.tables.read import Readable, good_rows, read_input

__all__ = ["RestrictedInput", "input_column"]

_CHANGE = "__change"
_NUMBER = "__number"
_MAX_ROWS = 4_000_000  # rows that are compared: of more, all partitions count as changed
_FINER = {"hour": ("hour",), "day": ("hour", "day"), "month": ("hour", "day", "month")}
"""Spans of time → those that lie in one of them."""


def input_column(declared: Readable, partitioning: Partitioning | None, schema: pl.Schema) -> str | None:
    """The column by which an input is restricted to a partition of the table; None: it is read whole.

    An input without partitions is read whole. Spans of time are those of the input's own time: an event's, or
    the column by which the table is partitioned; of a table partitioned by a hash, the column with the name of
    the partition's. A hash is that of the column with the key's name.
    """
    if partitioning is None or not isinstance(declared, (Contract, Table)):
        return None
    own = declared.partition_by if isinstance(declared, Table) else None
    if isinstance(declared, Table) and own is None:
        return None
    if not partitioning.is_time:
        return partitioning.column if partitioning.column in schema else None
    if isinstance(declared, Contract):
        return declared.time
    if own is not None and own.is_time:
        return own.column
    column = partitioning.column
    return column if column in schema and is_moment(schema[column], "day") else None


@attrs.frozen
class RestrictedInput:
    """An input that is restricted to the partitions of the table that reads it.

    Attributes:
        project, lake: the project and the lake of the table.
        table: the table.
        partitioning: its partitioning.
        declared: the input.
        name: its table in the lake.
        snapshot: the snapshot of it that is read.
        column: the column by which it is restricted.
    """

    project: Project
    lake: Lake
    table: Table
    partitioning: Partitioning
    declared: Readable
    name: str
    snapshot: int
    column: str

    def rows_per_partition(self) -> dict[int, int]:
        """Partition → the input's rows for it. Those of a hash are taken to be spread evenly.

        Raises:
            ProjectError: the column has no hours, or cannot be a key.
            Refused: rows have no value in the column.
        """
        stored, partitioning = self.lake.table(self.name), self.partitioning
        if not partitioning.is_time:
            self._check_type()
            rows, parts = stored.snapshot(self.snapshot).rows, partitioning.parts
            # The sum is that of the rows: whether a function failed on every row is decided by it.
            return {number: (rows + number) // parts for number in range(parts) if rows}
        nesting = self._nesting()
        if nesting is None:
            return self._count_rows()
        by, place = nesting
        spread: dict[int, int] = {}
        for number, count in stored.rows_per_partition(by, self.snapshot, good_rows(self.declared)).items():
            spread[place(number)] = spread.get(place(number), 0) + count
        return spread

    def changed_partitions(self, since: int | None) -> set[int] | None:
        """The partitions whose rows of the input changed since a snapshot; None: all may have changed, because
        the snapshot has expired, or so many rows changed that comparing them takes as long."""
        stored, nesting = self.lake.table(self.name), self._nesting()
        if nesting is not None:
            by, place = nesting
            numbers = stored.partitions_changed(by, since, self.snapshot, good_rows(self.declared))
            return None if numbers is None else {place(number) for number in numbers}
        frames = stored.scan_changes(since, self.snapshot, limit=_MAX_ROWS)
        if frames is None:
            return None
        before, after = (_filter_good(frame, self.declared) for frame in frames)
        old, new = before.collect_schema(), after.collect_schema()
        if old.get(self.column) != new.get(self.column):
            return None
        changed = input_numbers(self.partitioning, self.column, new[self.column])
        rows = _changed_rows(before, after, old, new).select(changed.alias(_NUMBER))
        return set(rows.unique().drop_nulls().collect()[_NUMBER])

    def _count_rows(self) -> dict[int, int]:
        self._check_type()
        frame = self._read()
        numbers = partition_numbers(self.partitioning, self.column, frame.collect_schema()[self.column])
        counts = frame.group_by(numbers.alias(_NUMBER)).len().sort(_NUMBER).collect()
        per_number: dict[int | None, int] = dict(counts.iter_rows())
        missing = per_number.pop(None, 0)
        if missing:
            raise Refused(
                f"column {self.column!r} is null in {plural(missing, 'row')} of {self.name}: such a row belongs"
                f" to no {self.partitioning.grain} of table {self.table.name}",
                where=str(self.table.place),
                remedy=f"Fill the column in {self.name}, or drop such rows there.",
            )
        return {number: count for number, count in per_number.items() if number is not None}

    def _nesting(self) -> tuple[PartitionColumn, Callable[[int], int]] | None:
        """How the input is partitioned, and the partition of the table in which each of its partitions lies;
        None: one lies in several."""
        fields = self.lake.table(self.name).partition_by()
        transform = next((transform for name, transform in fields if name == self.column), "identity")
        by, buckets, parts = (self.column, transform), bucket_count(transform), self.partitioning.parts
        if not self.partitioning.is_time:
            return (by, lambda number: number % parts) if buckets and buckets % parts == 0 else None
        grain: Grain = self.partitioning.grain
        is_local = self.partitioning.timezone is not None and self._dtype() != pl.Date
        if transform not in _FINER[grain] or is_local:
            return None
        if transform == grain:
            return by, lambda number: number
        finer: Grain = "hour" if transform == "hour" else "day"
        return by, lambda number: number_of(grain, start_of(finer, number))

    def _read(self) -> pl.LazyFrame:
        return read_input(self.project, self.lake, self.declared, self.snapshot)

    def _dtype(self) -> pl.DataType:
        return pl.Schema(self.lake.table(self.name).schema())[self.column]

    def _check_type(self) -> None:
        dtype, partitioning = self._dtype(), self.partitioning
        if is_moment(dtype, partitioning.grain) if partitioning.is_time else is_key(dtype):
            return
        kind = f"has no {partitioning.grain}s" if partitioning.is_time else "cannot be a key"
        raise ProjectError(
            f"table {self.table.name} is partitioned {partitioning.describe()}, but {self.column!r} of its"
            f" input {self.name} is {dtype}, which {kind}",
            where=str(self.table.place),
            remedy="Partition the table otherwise, or give the input a column of another type.",
        )


def _filter_good(frame: pl.LazyFrame, declared: Readable) -> pl.LazyFrame:
    return frame.filter(*(pl.col(column) == value for column, value in good_rows(declared).items()))


def _changed_rows(before: pl.LazyFrame, after: pl.LazyFrame, old: pl.Schema, new: pl.Schema) -> pl.LazyFrame:
    """The rows that are not equally often in both frames; more, if rows of their types cannot be compared."""
    both = pl.concat(
        [
            before.with_columns(pl.lit(-1).alias(_CHANGE)),
            after.with_columns(pl.lit(1).alias(_CHANGE)),
        ],
        how="diagonal_relaxed",
    )
    types = {**old, **new}
    if any(old.get(name, dtype) != dtype or dtype.is_nested() for name, dtype in new.items()):
        return both
    # A float is compared by its bits: 0.0 == -0.0, but a function may tell them apart.
    comparable = both.with_columns(
        pl.col(name).reinterpret(dtype=pl.Int64 if dtype == pl.Float64 else pl.Int32)
        for name, dtype in types.items()
        if dtype.is_float()
    )
    return comparable.group_by(*types).agg(pl.col(_CHANGE).sum()).filter(pl.col(_CHANGE) != 0)
