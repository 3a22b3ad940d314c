"""Calls a table's function. If it fails, the error names the line of the project's code."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import combinations, starmap
from typing import Any

import polars as pl
from polars.exceptions import PanicException, PolarsError

from headrace.declare.table import Table
from headrace.kernel.errors import HeadraceError, ProjectError
from headrace.tables.joining import can_join, find_lost_digits

__all__ = ["call_function", "collect_frames", "concat_results"]

# What Polars says of frames that do not fit together, often without naming a column.
_OTHER_COLUMNS = re.compile(
    "'concat' inputs|unable to vstack|unable to append to a D|column name mismatch"
    "|incompatible with expected type"
)
_SAME_COLUMNS = (
    "The frames of a pl.concat must have the same columns, of the same types: select and cast them before, or"
    ' use how="diagonal_relaxed", which fills what a frame lacks with null.'
)


def call_function(
    table: Table, frames: Sequence[pl.LazyFrame], options: Mapping[str, datetime]
) -> pl.LazyFrame:
    """Calls the table's function on the frames, and returns its result, not yet collected.

    Raises:
        ProjectError: the function failed, or did not return a frame.
    """
    try:
        rows: Any = table.function(*frames, **options)
    except HeadraceError:
        raise
    except (Exception, PanicException, SystemExit) as error:
        raise _failure(table, error) from error
    if isinstance(rows, pl.DataFrame):
        rows = rows.lazy()
    if not isinstance(rows, pl.LazyFrame):
        raise ProjectError(
            f"{table.name} returned {type(rows).__name__}, not a polars LazyFrame",
            where=str(table.place),
            remedy="Return the rows from the function, as a polars LazyFrame or DataFrame.",
        )
    return _rename_columns(table, rows) if table.renames else rows


def _rename_columns(table: Table, rows: pl.LazyFrame) -> pl.LazyFrame:
    try:
        columns = rows.collect_schema()
    except (Exception, PanicException, SystemExit) as error:
        raise _failure(table, error) from error
    for old, new in table.renames.items():
        if old not in columns or new in columns:
            what = f"returns no column {old!r}" if old not in columns else f"returns {new!r} too"
            raise ProjectError(
                f"renames={{{old!r}: {new!r}}}: the function of table {table.name} {what};"
                f" its columns are {', '.join(columns)}",
                where=str(table.place),
                remedy="Name a column that the function returns, and a new name.",
            )
    return table.rename(rows)


def collect_frames(table: Table, frames: Sequence[pl.LazyFrame]) -> list[pl.DataFrame]:
    """Collects the frames.

    Raises:
        ProjectError: polars failed, or the function's code that polars calls.
    """
    try:
        return pl.collect_all(frames)
    except HeadraceError:
        raise
    except (Exception, PanicException, SystemExit) as error:
        raise _failure(table, error) from error


def concat_results(table: Table, parts: Sequence[pl.DataFrame], place: str = "") -> pl.DataFrame:
    """The rows that the function returned for the parts of its input, as one frame.

    A column without values in one part takes its type from the others. Of two number types the wider is used.

    Args:
        table: the table.
        parts: the rows of each part.
        place: the parts in words, for errors, such as " (in 2 days from 2026-01-01 to 2026-01-02)".

    Raises:
        ProjectError: the parts have other columns, or types that cannot be joined (tables.joining).
    """
    names = dict.fromkeys(name for rows in parts for name in rows.columns)
    if missing := [name for name in names if any(name not in rows.columns for rows in parts)]:
        raise ProjectError(
            f"{table.name} returns other columns for some rows than for others{place}: {', '.join(missing)}",
            where=str(table.place),
            remedy="Return the same columns for every input.",
        )
    for name in names:
        types = list(dict.fromkeys(rows.schema[name] for rows in parts))
        units = {dtype.time_unit for dtype in types if isinstance(dtype, pl.Datetime)}
        lost = find_lost_digits([rows[name] for rows in parts]) if len(types) > 1 else None
        if len(units) > 1 or lost is not None or not all(starmap(can_join, combinations(types, 2))):
            example = "" if lost is None else f", and a float does not hold {lost}"
            raise ProjectError(
                f"{table.name} returns column {name!r} as {' and as '.join(sorted(map(str, types)))}"
                f"{place}{example}",
                where=str(table.place),
                remedy="Return one type for every input: cast the column in the function.",
            )
    try:
        return pl.concat(parts, how="vertical_relaxed")
    except PolarsError as error:
        raise ProjectError(
            f"{table.name} returns other columns or types for some rows than for others{place}: {error}",
            where=str(table.place),
            remedy="Name the types in the function: cast the columns, or pass return_dtype= to map_elements.",
        ) from error


def _failure(table: Table, error: BaseException) -> ProjectError:
    """The error for a failure in the project's code, with the line that raised it."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == table.place.file]
    place = f"{table.place.file}:{lines[-1]}" if lines else str(table.place)
    message = str(error).partition("\n\nResolved plan")[0]
    remedy = _SAME_COLUMNS if isinstance(error, PolarsError) and _OTHER_COLUMNS.search(message) else None
    return ProjectError(f"{table.name} failed: {type(error).__name__}: {message}", where=place, remedy=remedy)
