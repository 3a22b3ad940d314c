"""Checks how a table may change if only the files of its sources have changed, not its code.

New columns are added. A column that is gone or would become another type, or a file without rows, is most often
a fault (a renamed header, `n/a` among numbers, an export that failed): the build is refused, because readers of
the table expect its columns. Whoever means the change says so in the code of the table or its sources.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import pyarrow as pa

from headrace.declare.source import Source
from headrace.declare.table import Table
from headrace.kernel.errors import Refused
from headrace.lake import LakeTable

__all__ = ["check_change"]


def check_change(table: Table, stored: LakeTable, rows: pa.Table, sources: Sequence[Source]) -> None:
    """Checks that the new rows have the table's columns with types that these can hold.

    Args:
        table: the declared table, whose code is unchanged.
        stored: the table in the lake.
        rows: the new rows; of a table that is made a group of partitions at a time, the first group.
        sources: the sources whose files have changed.

    Raises:
        Refused: there are no rows any more, a column is gone, or its type cannot become the new one without a
            loss.
    """
    schema, before = rows.schema, stored.current_snapshot()
    paths = " and ".join(source.path for source in sources)
    declared_at = ", ".join(f"source {source.name!r} at {source.place}" for source in sources)
    where = f"{paths} ({declared_at}; table {table.name} at {table.place})"
    unchanged = "the files changed, and the table's code did not"
    if not rows.num_rows and table.partition_by is None and before is not None and before.rows:
        raise Refused(
            f"table {table.name} would lose all its {before.rows:,} rows: {unchanged}",
            where=where,
            remedy="Put the rows back into the file. If the table is to be empty, say so in its function:"
            " .head(0).",
        )
    present = set(stored.schema().names)
    for name in sorted(present - set(schema.names)):
        near = difflib.get_close_matches(name, [new for new in schema.names if new not in present], n=1)
        hint = f"Is it {near[0]!r} now? " if near else ""
        raise Refused(
            f"column {name!r} of table {table.name} is gone: {unchanged}",
            where=where,
            remedy=f"{hint}Correct the header of the file, or rename the column in the table's function."
            f' If it is gone for good, say so there: .drop("{name}", strict=False).',
        )
    for name, (old, new) in sorted(stored.type_conflicts(schema).items()):
        raise Refused(
            f"column {name!r} of table {table.name} is {old}, and would become {new}: {unchanged}",
            where=where,
            remedy=f'Declare how it is read: source(..., schema={{"{name}": ...}}, null_values=[...]); the'
            " build then names a row that has another value. If the new type is meant, cast to it in the"
            " table's function.",
        )
