"""Checks that the primary key of a table's schema is unique over the whole table.

A key that includes the column of the partition is unique if it is unique in each partition, which the audit of
the rows checks. For any other key, the keys of the new rows and of the partitions that stay are read.
"""

from __future__ import annotations

import polars as pl

from headrace.declare.table import Table
from headrace.kernel.counts import plural
from headrace.tables.audits.port import MAX_FAILING_ROWS, AuditScope, RuleFailure, is_made_in_parts
from headrace.tables.failures import describe_row

__all__ = ["check_unique_keys", "spread_key"]

_EXAMPLES = 3


def spread_key(table: Table) -> list[str]:
    """The primary key, if rows with one key may be in several parts of the table; else no column."""
    if table.schema is None or not is_made_in_parts(table):
        return []
    key = list(table.schema.primary_key())
    return [] if table.partition_by is not None and table.partition_by.column in key else key


def check_unique_keys(scope: AuditScope) -> RuleFailure | None:
    """Checks the keys of a table as it will be."""
    key = spread_key(scope.table)
    counts = scope.all_rows.select(key).group_by(key).len().filter(pl.col("len") > 1)
    twice = counts.sort(key).collect(engine="streaming")
    if twice.is_empty():
        return None
    examples = "; ".join(describe_row(row) for row in twice.drop("len").head(_EXAMPLES).to_dicts())
    first = twice.head(MAX_FAILING_ROWS).select(key).lazy()
    rows = scope.all_rows.join(first, on=key, how="semi", nulls_equal=True).head(MAX_FAILING_ROWS)
    where = "in several rows" if scope.table.partition_by is None else "in several partitions"
    what = f"{plural(len(twice), 'key', 'is', 'are')} {where}, such as {examples}"
    return RuleFailure(what, int(twice["len"].sum()), rows.collect(engine="streaming"))
