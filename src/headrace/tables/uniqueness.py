"""Checks that the primary key of a table's schema is unique over the whole table.

A key that includes the column of the partition is unique if it is unique in each partition, which the audit
checks. For any other key, the keys of the new rows and of the partitions that stay are read.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from headrace.declare.table import Table
from headrace.kernel.errors import Refused
from headrace.lake import LakeTable
from headrace.lake.files import WrittenFile
from headrace.tables.partitions import partition_numbers
from headrace.tables.plan import RebuildPlan

__all__ = ["check_unique_keys"]

_EXAMPLES = 3


def check_unique_keys(table: Table, plan: RebuildPlan, stored: LakeTable, files: Sequence[WrittenFile]) -> None:
    """Checks the keys of a table as it will be.

    Args:
        table: the declared table.
        plan: the plan of the build.
        stored: the table in the lake, before the build is published.
        files: the new rows.

    Raises:
        Refused: a key is there twice.
    """
    partitioning = table.partition_by
    key = [] if table.schema is None else list(table.schema.primary_key())
    if partitioning is None or not key or partitioning.column in key:
        return
    frames = [stored.scan_files(files).select(key)]
    if not plan.whole and stored.current_snapshot() is not None:
        rows = stored.scan()
        column = partitioning.column
        numbers = partition_numbers(partitioning, column, rows.collect_schema()[column])
        frames.append(rows.filter(~numbers.is_in(plan.partitions or [])).select(key))
    counts = pl.concat(frames, how="vertical_relaxed").group_by(key).len().filter(pl.col("len") > 1)
    twice = counts.sort(key).collect()
    if twice.is_empty():
        return
    examples = "\n  ".join(str(row) for row in twice.drop("len").head(_EXAMPLES).to_dicts())
    raise Refused(
        f"the audit refused the rows: {len(twice):,} keys ({', '.join(key)}) are in several partitions."
        f" The table is unchanged. For example:\n  {examples}",
        where=f"table {table.name} ({table.place})",
        remedy="Correct the function, or the primary key of the schema if it is wrong.",
    )
