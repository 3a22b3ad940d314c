"""The rules of dataframely schemas over a whole table.

satisfies(...) declares them, and `schema=` those about several rows.

A rule that can be decided for each row by itself is checked on the new rows, any other on all of the table.
"""

from __future__ import annotations

from collections.abc import Mapping

import dataframely as dy
import polars as pl
from polars.exceptions import PanicException

from headrace.declare.audits import Satisfies
from headrace.kernel.counts import plural
from headrace.kernel.errors import HeadraceError, ProjectError
from headrace.tables.audits.port import (
    RULE,
    AuditScope,
    RuleFailure,
    collect_failing,
    failing_partitions,
    find_type,
)
from headrace.tables.audits.row_rules import is_row_rule

__all__ = ["RuleError", "check_rules", "check_satisfies", "group_rules", "spell_rule"]


def group_rules(schema: type[dy.Schema]) -> dict[str, pl.Expr]:
    """The schema's own rules about several rows; its primary key is not among them."""
    # dataframely has no public way to a schema's rules: tests/tables/test_audits.py fails if this one moves.
    rules = {name: rule.expr for name, rule in schema._schema_validation_rules().items()}
    return {name: rule for name, rule in rules.items() if not is_row_rule(rule)}


def check_satisfies(audit: Satisfies, scope: AuditScope) -> RuleFailure | None:
    """Checks the rows against the schema.

    Raises:
        ProjectError: a column does not exist, or has another type than the schema says.
    """
    table, schema = scope.table, audit.schema
    where = f"table {table.name} ({table.place})"
    for name, column in schema.columns().items():
        dtype = find_type(str(audit), scope.all_rows, table.name, name, where)
        if not column.validate_dtype(dtype):
            raise ProjectError(
                f"its audit {audit} says that {name!r} is {column.dtype}, but it is {dtype}",
                where=where,
                remedy="Make the schema and the table's function agree.",
            )
    return check_rules(_all_rules(schema), scope)


def _all_rules(schema: type[dy.Schema]) -> dict[str, pl.Expr]:
    try:
        return {name: rule.expr for name, rule in schema._validation_rules(with_cast=False).items()}
    except (Exception, SystemExit) as error:
        raise RuleError(f"its rules cannot be made: {type(error).__name__}: {error}") from error


def check_rules(rules: Mapping[str, pl.Expr], scope: AuditScope) -> RuleFailure | None:
    """Checks rules, those of each row in one pass over the rows; a row for which a rule is null passes it."""
    broken, frames, total = [], [], 0
    partitions: frozenset[int] | None = frozenset()
    row_rules = {name: rule for name, rule in rules.items() if is_row_rule(rule)}
    kept = _find_kept(row_rules, scope.rows)
    for name, rule in sorted(rules.items()):
        if name in kept:
            continue
        count, sample = _run_rule(name, rule, scope.rows if name in row_rules else scope.all_rows)
        if count:
            total += count
            broken.append(f"{spell_rule(name)} ({plural(count, 'row')})")
            frames.append(sample.with_columns(pl.lit(spell_rule(name)).alias(RULE)))
        if count and name in row_rules:
            failing = failing_partitions(scope.table, scope.rows.filter(~rule.fill_null(True)))
            partitions = None if partitions is None or failing is None else partitions | failing
    if not broken:
        return None
    return RuleFailure("; ".join(broken), total, pl.concat(frames), partitions)


def _find_kept(rules: Mapping[str, pl.Expr], rows: pl.LazyFrame) -> set[str]:
    """The rules of each row that every row passes; none if one of them fails: then each is run alone."""
    columns = {f"__rule {number}": name for number, name in enumerate(rules)}
    masks = [rules[name].fill_null(True).alias(column) for column, name in columns.items()]
    # Columns first, because a rule may be one value for all rows.
    passes = rows.with_columns(masks).select(pl.col(list(columns)).all())
    try:
        answer = passes.collect(engine="streaming").row(0, named=True) if rules else {}
    except (Exception, PanicException):
        return set()
    return {name for column, name in columns.items() if answer[column]}


def spell_rule(name: str) -> str:
    """The name of a rule, for people: dataframely writes `price|min` for the rule `min` of a column."""
    return name.replace("|", ": ")


def _run_rule(name: str, rule: pl.Expr, rows: pl.LazyFrame) -> tuple[int, pl.DataFrame]:
    """How many rows break the rule, and some of them.

    Raises:
        RuleError: the rule fails on the rows.
    """
    try:
        return collect_failing(rows.filter(~rule.fill_null(True)))
    except HeadraceError:
        raise
    except (Exception, PanicException, SystemExit) as error:
        problem = str(error).partition("\n\nResolved plan")[0]
        raise RuleError(f"the rule {spell_rule(name)} fails: {type(error).__name__}: {problem}") from error


class RuleError(Exception):
    """A rule cannot be decided on the rows of a table, because its code or polars raises."""
