"""The audit of rows: checks that every row satisfies the table's schema before it is published.

Rules about several rows of a table that is made in parts are checked over the whole table (rules.py).
"""

from __future__ import annotations

from functools import partial

import dataframely as dy
import polars as pl
from dataframely.exc import SchemaError

from headrace.declare.event import Contract
from headrace.declare.table import Table
from headrace.events.contracts.shape import KNOWN_AT
from headrace.kernel.counts import plural
from headrace.kernel.errors import Refused
from headrace.tables.audits.port import MAX_FAILING_ROWS, RULE, is_made_in_parts
from headrace.tables.audits.rules import group_rules, spell_rule

__all__ = ["RowsRefused", "audit"]

_EXAMPLES = 3


class RowsRefused(Refused):
    """Rows of a table do not satisfy its schema.

    Args:
        what, where, remedy: see HeadraceError. No rows are in them: errors go to logs, lineage and the status.
        rules: the rules that rows break, each with how many rows break it.
        failing: how many rows break a rule.
        rows: at most MAX_FAILING_ROWS of them for each rule, with the rule in the column `_rule`.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        remedy: str | None = None,
        rules: str = "",
        failing: int = 0,
        rows: pl.DataFrame | None = None,
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.rules = rules
        self.failing = failing
        self.rows = rows

    def __reduce__(self) -> tuple[object, ...]:
        rebuild = partial(type(self), where=self.where, remedy=self.remedy)
        return (partial(rebuild, rules=self.rules, failing=self.failing, rows=self.rows), (self.what,))

    @property
    def examples(self) -> list[dict[str, object]]:
        """Some of the rows."""
        if self.rows is None:
            return []
        return self.rows.drop(RULE).unique(maintain_order=True).head(_EXAMPLES).to_dicts()


def audit(table: Table, rows: pl.DataFrame) -> pl.DataFrame:
    """Checks rows against the table's schema. Returns them with the schema's columns, in its order.

    The rows of a table without a schema are returned unchanged. The rows of a rowwise table that reads an event
    also have `_known_at`, since when each is known (shape.META).

    Args:
        table: the declared table.
        rows: the rows that its function made.

    Raises:
        Refused: a column is missing, has another type or is not in the schema (the error names it).
        RowsRefused: rows break a rule (the error names it, counts the rows, and has some of them).
    """
    where = f"table {table.name} ({table.place})"
    is_from_event = table.rowwise and isinstance(table.reads[0], Contract)
    if is_from_event and KNOWN_AT not in rows.columns:
        raise Refused(
            f"its function drops the column {KNOWN_AT}, by which windows count only events that were known",
            where=where,
            remedy=f'Keep it: add "{KNOWN_AT}" to what the function selects. The schema need not name it.',
        )
    if table.schema is None:
        return rows
    if KNOWN_AT not in rows.columns or KNOWN_AT in table.schema.column_names():
        return _check_schema(table, table.schema, rows, where)
    good = _check_schema(table, table.schema, rows.drop(KNOWN_AT), where)
    return good.with_columns(rows[KNOWN_AT]) if is_from_event else good


def _check_schema(table: Table, schema: type[dy.Schema], rows: pl.DataFrame, where: str) -> pl.DataFrame:
    undeclared = [name for name in rows.columns if name not in schema.column_names()]
    if undeclared:
        raise Refused(
            f"its function returns columns that its schema {schema.__name__} lacks: {', '.join(undeclared)}",
            where=where,
            remedy="Add them to the schema, or drop them in the function.",
        )
    try:
        good, failure = schema.filter(rows)
    except SchemaError as error:
        problem = str(error).partition("\n\nResolved plan")[0]
        raise Refused(
            f"the audit failed: {problem}", where=where, remedy="Make the function and its schema agree."
        ) from error
    later = set(group_rules(schema)) if is_made_in_parts(table) else set()
    counts = {rule: count for rule, count in failure.counts().items() if rule not in later}
    if not counts:
        return rows.select(schema.column_names()) if later else good
    rules = "; ".join(
        f"{spell_rule(rule)} ({count:,} of {plural(rows.height, 'row')})"
        for rule, count in sorted(counts.items())
    )
    details, columns = failure.details(), rows.columns
    failing = {rule: details.filter(pl.col(rule) == "invalid").select(columns) for rule in sorted(counts)}
    raise RowsRefused(
        f"the audit failed, the table is unchanged: {rules}",
        where=where,
        remedy=f"headrace check tables {table.name} shows the failing rows. Correct the function or the data,"
        " or the rule if it is wrong.",
        rules=rules,
        failing=details.filter(pl.any_horizontal(pl.col(list(counts)) == "invalid")).height,
        rows=pl.concat(
            part.head(MAX_FAILING_ROWS).with_columns(pl.lit(spell_rule(rule)).alias(RULE))
            for rule, part in failing.items()
        ),
    )
