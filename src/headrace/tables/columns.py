"""Finds the columns that a table will have, and those that a function reads, before any row is made.

A function is called with frames that have the columns of its inputs and no rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import polars as pl
from polars.exceptions import ColumnNotFoundError, PanicException

from headrace.declare.event import Contract
from headrace.declare.table import Table
from headrace.events.contracts.shape import KNOWN_AT

__all__ = ["find_missing_columns", "find_table_columns", "function_without_rows"]

_NAME = re.compile(r'"([^"]+)"')
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


def function_without_rows(table: Table) -> Callable[..., Any]:
    """The function of a table; if it takes `now`, with an instant."""
    return partial(table.function, now=_NEVER) if table.takes_now else table.function


def find_table_columns(table: Table, inputs: Sequence[pl.Schema]) -> pl.Schema | None:
    """The columns of the table, if its inputs have these; None: they cannot be known without rows.

    Args:
        table: the declared table; its schema says the columns if it has one.
        inputs: the columns of each input, in the order in which its function takes them.
    """
    if table.query is not None:
        return None
    if table.current:
        return inputs[0]
    if table.schema is not None:
        is_from_event = table.rowwise and isinstance(table.reads[0], Contract)
        declared = {name: column.dtype for name, column in table.schema.columns().items()}
        known_at = {KNOWN_AT: pl.Datetime("us", "UTC")} if is_from_event else {}
        return pl.Schema({**declared, **known_at})
    try:
        return table.rename(_call(function_without_rows(table), inputs)).collect_schema()
    except (Exception, PanicException):  # it needs rows
        return None


def find_missing_columns(
    function: Callable[..., Any], inputs: Sequence[pl.Schema], lost: Sequence[pl.Schema]
) -> list[tuple[int, str]]:
    """The columns that a function reads although its inputs lose them, each with the number of the input.

    A function that cannot be called without rows reads none, as far as can be known.

    Args:
        function: takes one frame for each input, and returns a frame.
        inputs: the columns that each input will have.
        lost: those that each input loses.
    """
    schemas, missing = list(inputs), list[tuple[int, str]]()
    for _ in range(1 + sum(len(columns) for columns in lost)):
        try:
            _call(function, schemas).collect_schema()
        except ColumnNotFoundError as error:
            names = _NAME.findall(str(error).partition("\n")[0].partition("valid columns")[0])
            reads = [(n, name) for n, columns in enumerate(lost) for name in names if name in columns]
            if not reads or reads[0] in missing:
                break
            missing.append(reads[0])
            number, name = reads[0]
            schemas[number] = pl.Schema({**schemas[number], name: lost[number][name]})
        except (Exception, PanicException):
            break
        else:
            break
    return missing


def _call(function: Callable[..., Any], inputs: Sequence[pl.Schema]) -> pl.LazyFrame:
    rows: pl.LazyFrame = function(*(pl.LazyFrame(schema=schema) for schema in inputs)).lazy()
    return rows
