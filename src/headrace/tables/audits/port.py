"""What an audit gets and gives."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

import attrs
import polars as pl

from headrace.declare.partitioning import name_partition
from headrace.declare.table import Table
from headrace.kernel.errors import ProjectError
from headrace.tables.audits.report import AuditResult
from headrace.tables.partitions import is_key, is_moment, partition_numbers

__all__ = [
    "MAX_FAILING_ROWS",
    "RULE",
    "AuditScope",
    "CheckAudit",
    "RuleFailure",
    "collect_failing",
    "failing_partitions",
    "find_type",
    "is_made_in_parts",
    "name_partitions",
]

MAX_FAILING_ROWS = 100
"""How many failing rows of a rule are kept."""

RULE = "_rule"
"""The column of failing rows that names the rule."""


@attrs.frozen
class AuditScope:
    """A table as it will be once it is published.

    If none of its audits compares numbers of rows, those of partitions that stay are not counted.

    Attributes:
        table: the declared table.
        all_rows: its rows, those of partitions that stay included.
        rows: those that an audit of each row by itself must check: the new ones, or all rows if any of the
            others may fail.
        partition_rows: partition → how many rows it will have; empty if the table has no partitions.
        published_rows: the same of the published table; empty as well if that is partitioned otherwise.
        count: how many rows it will have.
        published_count: how many the published table has; None: nothing is published.
        is_unchanged: whether the build makes no rows: only what the audits depend on has changed.
        previous: rule → its result in the audit of the published rows.
        keys: other table → its rows.
        now: the time of the audit.
    """

    table: Table
    all_rows: pl.LazyFrame
    rows: pl.LazyFrame
    partition_rows: Mapping[int, int]
    published_rows: Mapping[int, int]
    count: int
    published_count: int | None
    is_unchanged: bool
    previous: Mapping[str, AuditResult]
    keys: Mapping[str, pl.LazyFrame]
    now: datetime


@attrs.frozen
class RuleFailure:
    """What an audit found wrong.

    Attributes:
        what: what is wrong, in words.
        failing: how many rows fail; 0: the audit is not about single rows.
        rows: at most MAX_FAILING_ROWS of them.
        partitions: the partitions of those that fail by themselves; None: unknown.
    """

    what: str
    failing: int = 0
    rows: pl.DataFrame | None = None
    partitions: frozenset[int] | None = frozenset()


class CheckAudit(Protocol):
    """Checks a table against one declared audit; None: nothing is wrong.

    Raises:
        ProjectError: the audit does not fit the table.
    """

    def __call__(self, audit: Any, scope: AuditScope) -> RuleFailure | None: ...


def is_made_in_parts(table: Table) -> bool:
    """Whether the rows of a table are not all in memory when they are audited for the first time."""
    return table.partition_by is not None or table.rowwise or table.query is not None


def collect_failing(failing: pl.LazyFrame) -> tuple[int, pl.DataFrame]:
    """How many rows there are, and at most MAX_FAILING_ROWS of them.

    They are counted first, because that reads only the columns by which a row fails; most often none does.
    """
    count = int(failing.select(pl.len()).collect(engine="streaming").item())
    if not count:
        return 0, pl.DataFrame()
    return count, failing.head(MAX_FAILING_ROWS).collect(engine="streaming")


def failing_partitions(table: Table, failing: pl.LazyFrame) -> frozenset[int] | None:
    """The partitions of rows that fail by themselves; None if they cannot be told."""
    partitioning = table.partition_by
    if partitioning is None:
        return None
    column, schema = partitioning.column, failing.collect_schema()
    if column not in schema:
        return None
    numbers = failing.select(partition_numbers(partitioning, column, schema[column]).unique())
    return frozenset(numbers.collect(engine="streaming").to_series().drop_nulls())


def find_type(subject: str, rows: pl.LazyFrame, table: str, column: str, where: str) -> pl.DataType:
    """The type of a column that an audit names.

    Raises:
        ProjectError: the table has no such column.
    """
    schema = rows.collect_schema()
    if column not in schema:
        raise ProjectError(
            f"its audit {subject} names column {column!r}, which table {table} lacks",
            where=where,
            remedy=f"Its columns are: {', '.join(schema)}.",
        )
    return schema[column]


def name_partitions(table: Table, rows: pl.DataFrame) -> pl.Series:
    """The name of each row's partition; null if the table has no partitions, or the row has none."""
    partitioning = table.partition_by
    if partitioning is None or partitioning.column not in rows.columns:
        return pl.Series([None] * rows.height, dtype=pl.String)
    column, dtype = partitioning.column, rows.schema[partitioning.column]
    if not (is_moment(dtype, partitioning.grain) if partitioning.is_time else is_key(dtype)):
        return pl.Series([None] * rows.height, dtype=pl.String)
    numbers = rows.select(partition_numbers(partitioning, column, dtype)).to_series()
    names = [None if number is None else name_partition(partitioning, number) for number in numbers]
    return pl.Series(names, dtype=pl.String)
