"""Checks how the columns of a table may change.

If only the files of a table's sources have changed, not its code, new columns are added. A column that is gone
or would become another type, or a file without rows, is most often a fault (a renamed header, `n/a` among
numbers, an export that failed): the build is refused, because readers of the table expect its columns. Whoever
means the change says so in the code of the table or its sources.

All partitions of a table have the same columns. If some of them would get others, all of the table is made.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import pyarrow as pa

from headrace.declare.source import Source
from headrace.declare.table import Table
from headrace.kernel.errors import Refused
from headrace.lake import LakeTable

__all__ = ["OtherColumns", "check_change", "check_parts", "check_rows_left"]

_UNCHANGED = "the files changed, and the table's code did not"


class OtherColumns(Exception):
    """The rows of some partitions have other columns than the table, so all of it must be made; says which."""


def check_parts(table: Table, stored: LakeTable, schema: pa.Schema, *, is_range: bool) -> None:
    """Checks that some partitions have the columns of the table, whose other partitions stay as they are.

    Args:
        table: the declared table.
        stored: the table in the lake.
        schema: the columns of the new partitions.
        is_range: whether these partitions were asked for, and not all that are stale.

    Raises:
        OtherColumns: they have not, so the table must be made whole.
        Refused: they have not, and only these partitions may be made.
    """
    old = stored.schema()
    changes = [f"column {name!r} is gone" for name in old.names if name not in schema.names]
    conflicts = sorted(stored.type_conflicts(schema).items())
    changes += [f"column {name!r} is {after}, not {before}" for name, (before, after) in conflicts]
    changes += [f"column {name!r} is new" for name in schema.names if name not in old.names]
    if changes and is_range:
        raise Refused(
            f"a range of table {table.name} cannot be made: {', '.join(changes)}",
            where=str(table.place),
            remedy="All partitions have the same columns, so build all of it:"
            f" headrace build {table.name} --full",
        )
    if changes:
        raise OtherColumns(f"its columns changed: {', '.join(changes)}")


def check_change(table: Table, stored: LakeTable, schema: pa.Schema, sources: Sequence[Source]) -> None:
    """Checks that the new rows have the table's columns with types that these can hold.

    Args:
        table: the declared table, whose code is unchanged.
        stored: the table in the lake.
        schema: the columns of the new rows.
        sources: the sources whose files have changed.

    Raises:
        Refused: a column is gone, or its type cannot become the new one without a loss.
    """
    where = _describe_place(table, sources)
    present = set(stored.schema().names)
    for name in sorted(present - set(schema.names)):
        near = difflib.get_close_matches(name, [new for new in schema.names if new not in present], n=1)
        hint = f"Is it {near[0]!r} now? " if near else ""
        raise Refused(
            f"column {name!r} of table {table.name} is gone: {_UNCHANGED}",
            where=where,
            remedy=f"{hint}Correct the header of the file, or rename the column in the table's function."
            f' If it is gone for good, say so there: .drop("{name}", strict=False).',
        )
    for name, (old, new) in sorted(stored.type_conflicts(schema).items()):
        raise Refused(
            f"column {name!r} of table {table.name} is {old}, and would become {new}: {_UNCHANGED}",
            where=where,
            remedy=f'Declare how it is read: source(..., schema={{"{name}": ...}}, null_values=[...]); the'
            " build then names a row that has another value. If the new type is meant, cast to it in the"
            " table's function.",
        )


def check_rows_left(table: Table, stored: LakeTable, rows: int, sources: Sequence[Source]) -> None:
    """Checks that a table whose code is unchanged does not lose all its rows because files have changed.

    Args:
        table: the declared table.
        stored: the table in the lake.
        rows: how many rows it would have.
        sources: the sources whose files have changed.

    Raises:
        Refused: it would have none, and has some.
    """
    before = stored.current_snapshot()
    if rows or before is None or not before.rows:
        return
    raise Refused(
        f"table {table.name} would lose all its {before.rows:,} rows: {_UNCHANGED}",
        where=_describe_place(table, sources),
        remedy="Put the rows back into the file. If the table is to be empty, say so in its function:"
        " .head(0).",
    )


def _describe_place(table: Table, sources: Sequence[Source]) -> str:
    paths = " and ".join(source.path for source in sources)
    declared_at = ", ".join(f"source {source.name!r} at {source.place}" for source in sources)
    return f"{paths} ({declared_at}; table {table.name} at {table.place})"
