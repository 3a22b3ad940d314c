"""Checks how the columns of a table may change if only the files of its sources have changed, not its code.

New columns are added. A column that is gone, or that would become another type, is most often a fault in the
files (a renamed header, `n/a` among numbers): the build is refused, because readers of the table expect its
columns. Whoever means the change says so in the table's function or its sources, and so changes its code.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import pyarrow as pa

from headrace.declare.source import Source
from headrace.declare.table import Table
from headrace.kernel.errors import Refused
from headrace.lake import LakeTable

__all__ = ["check_columns"]


def check_columns(table: Table, stored: LakeTable, schema: pa.Schema, sources: Sequence[Source]) -> None:
    """Checks that the new rows have the table's columns with types that these can hold.

    Args:
        table: the declared table, whose code is unchanged.
        stored: the table in the lake.
        schema: the columns of the new rows.
        sources: the sources whose files have changed.

    Raises:
        Refused: a column is gone, or its type cannot become the new one without a loss.
    """
    paths = " and ".join(source.path for source in sources)
    declared_at = ", ".join(f"source {source.name!r} at {source.place}" for source in sources)
    where = f"{paths} ({declared_at}; table {table.name} at {table.place})"
    unchanged = "the files changed, and the table's code did not"
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
