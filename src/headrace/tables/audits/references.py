"""references(...): each row's value is a key of another table."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from headrace.declare.audits import References
from headrace.kernel.counts import plural
from headrace.kernel.errors import ProjectError
from headrace.tables.audits.port import AuditScope, RuleFailure, collect_failing, failing_partitions, find_type
from headrace.tables.failures import cut, describe_row, spell_value

__all__ = ["check_references"]

_EXAMPLES = 3


def check_references(audit: References, scope: AuditScope) -> RuleFailure | None:
    """Checks that each row has a key of the other table, or no value.

    Raises:
        ProjectError: a column does not exist, or its type is another than that of the key.
    """
    table, other = scope.table, audit.other_table
    is_own = other == table.name
    keys = scope.all_rows if is_own else scope.keys[other]
    rows = scope.all_rows if is_own else scope.rows
    where = f"table {table.name} ({table.place})"
    pairs = []
    for column, key in zip(audit.columns, audit.key, strict=True):
        own = find_type(str(audit), rows, table.name, column, where)
        theirs = find_type(str(audit), keys, other, key, where)
        if own != theirs and not (own.is_integer() and theirs.is_integer()):
            raise ProjectError(
                f"its audit {audit} compares {column!r}, which is {own}, with {key!r} of {other}, which is"
                f" {theirs}",
                where=where,
                remedy="Give both columns one type in the tables' functions.",
            )
        wide = pl.Int64 if own.is_integer() else own
        pairs.append((pl.col(column).cast(wide), pl.col(key).cast(wide)))
    present = keys.select(key.alias(f"__key_{i}") for i, (_, key) in enumerate(pairs)).drop_nulls().unique()
    names = [f"__key_{i}" for i in range(len(pairs))]
    failing = (
        rows.filter(pl.col(column).is_not_null() for column in audit.columns)
        .with_columns(column.alias(name) for name, (column, _) in zip(names, pairs, strict=True))
        .join(present, on=names, how="anti")
        .drop(names)
    )
    count, sample = collect_failing(failing)
    if not count:
        return None
    values = sample.select(audit.columns).unique(maintain_order=True).head(_EXAMPLES)
    examples = "; ".join(_spell(row) for row in values.iter_rows(named=True))
    what = f"{plural(count, 'row', 'has', 'have')} a value that is not a key of {other}, such as {examples}"
    return RuleFailure(what, count, sample, failing_partitions(table, failing))


def _spell(row: Mapping[str, object]) -> str:
    return cut(spell_value(*row.values())) if len(row) == 1 else describe_row(row)
