"""The audit: every row that is published satisfies the table's schema."""

from __future__ import annotations

import dataframely as dy
import polars as pl
from dataframely.exc import SchemaError

from headrace.declare.table import Table
from headrace.kernel.errors import Refused

__all__ = ["audit"]

_EXAMPLES = 3


def audit(table: Table, rows: pl.DataFrame) -> pl.DataFrame:
    """Checks rows against the table's schema. Returns them with the schema's columns, in its order.

    A table without a schema is returned as it is.

    Args:
        table: the declared table.
        rows: the rows that its function made.

    Raises:
        Refused: a column is missing, of another type or not in the schema, or rows break a rule. It names
            the column; or the rule, how many rows break it, and some of them.
    """
    if table.schema is None:
        return rows
    where = f"table {table.name} ({table.place})"
    schema: type[dy.Schema] = table.schema
    unnamed = [name for name in rows.columns if name not in schema.column_names()]
    if unnamed:
        raise Refused(
            f"its function makes columns that its schema {schema.__name__} does not name: {', '.join(unnamed)}",
            where=where,
            remedy="Add them to the schema, or leave them out in the function.",
        )
    try:
        good, failure = schema.filter(rows)
    except SchemaError as error:
        what = str(error).partition("\n\nResolved plan")[0]
        raise Refused(
            f"the audit found {what}", where=where, remedy="Make the function or its schema agree."
        ) from error
    counts = failure.counts()
    if not counts:
        return good
    rules = "; ".join(
        f"{rule.replace('|', ': ')} ({count:,} of {rows.height:,} rows)"
        for rule, count in sorted(counts.items())
    )
    examples = "\n  ".join(str(row) for row in failure.invalid().head(_EXAMPLES).to_dicts())
    raise Refused(
        f"the audit refused it: {rules}. The table is unchanged. For example:\n  {examples}",
        where=where,
        remedy="Correct the function, or the rule if it is wrong.",
    )
