"""The audit: every row that is published satisfies the table's schema."""

from __future__ import annotations

import dataframely as dy
import polars as pl
from dataframely.exc import SchemaError

from headrace.declare.table import Table
from headrace.kernel.errors import Refused

__all__ = ["audited"]

_EXAMPLES = 3


def audited(table: Table, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows, with the schema's columns in its order; a table without a schema passes as it is.

    Args:
        table: the declared table.
        rows: what its function made.

    Raises:
        Refused: a column is missing or of another type, or rows break a rule. It names the rule, how
            many rows break it, and some of them.
    """
    if table.schema is None:
        return rows
    where = f"table {table.name} ({table.place})"
    schema: type[dy.Schema] = table.schema
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
        f"the audit refused it: {rules}. The table stays as it was. For example:\n  {examples}",
        where=where,
        remedy="Mend the function, or the rule if it is wrong.",
    )
