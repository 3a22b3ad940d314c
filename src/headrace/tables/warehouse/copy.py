"""Loads frames into PostgreSQL by COPY, and names the types of their columns there."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import polars as pl
import psycopg
from psycopg import sql

from headrace.kernel.errors import ProjectError

__all__ = ["NO_ZERO", "ZERO", "copy_rows", "read_rows", "sql_type"]

_logger = logging.getLogger(__name__)

ZERO, NO_ZERO = "\0", "\ufffd"
"""What a text of PostgreSQL cannot have, and what is published instead: one event would otherwise end every
publication."""

_TYPES: dict[type[pl.DataType], str] = {
    pl.Boolean: "boolean",
    pl.Int8: "smallint",
    pl.Int16: "smallint",
    pl.Int32: "integer",
    pl.Int64: "bigint",
    pl.UInt8: "smallint",
    pl.UInt16: "integer",
    pl.UInt32: "bigint",
    pl.Float32: "real",
    pl.Float64: "double precision",
    pl.String: "text",
    pl.Categorical: "text",
    pl.Enum: "text",
    pl.Date: "date",
}
_ROWS = 50_000  # rows that are text at once


def sql_type(column: str, dtype: pl.DataType, where: str) -> str:
    """PostgreSQL's type for a column.

    Raises:
        ProjectError: PostgreSQL gets no such column.
    """
    if isinstance(dtype, pl.Datetime):
        return "timestamp" if dtype.time_zone is None else "timestamptz"
    if isinstance(dtype, pl.Decimal):
        return f"numeric({dtype.precision}, {dtype.scale})"
    if type(dtype) not in _TYPES:
        raise ProjectError(
            f"column {column!r} is {dtype}, which is not published",
            where=where,
            remedy="Leave it out, or convert it to a number, a text, a date or a time.",
        )
    return _TYPES[type(dtype)]


def copy_rows(
    cursor: psycopg.Cursor, table: sql.Composable, columns: Sequence[str], frames: Iterable[pl.DataFrame]
) -> int:
    """Loads the rows of the frames into these columns. Returns how many there were.

    A zero byte in a text becomes the replacement character, and a warning says so.
    """
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    rows = zeros = 0
    with cursor.copy(sql.SQL("copy {} ({}) from stdin (format csv)").format(table, names)) as stream:
        for frame in frames:
            for part in frame.select(columns).iter_slices(_ROWS):
                text = _csv(part)
                zeros += text.count(ZERO)
                stream.write(text.replace(ZERO, NO_ZERO).encode())
            rows += len(frame)
    if zeros:
        name = table.as_string(cursor)
        _logger.warning(
            "%s: %s zero bytes, which PostgreSQL cannot store, are published as \\ufffd", name, zeros
        )
    return rows


def read_rows(cursor: psycopg.Cursor, query: sql.Composable, schema: dict[str, pl.DataType]) -> pl.DataFrame:
    """The rows of a query, with columns of these types: numbers and texts."""
    with cursor.copy(sql.SQL("copy ({}) to stdout (format csv, force_quote *)").format(query)) as stream:
        text = b"".join(bytes(part) for part in stream)
    return (
        pl.read_csv(text, has_header=False, new_columns=list(schema), schema=schema)
        if text
        else pl.DataFrame(schema=schema)
    )


def _csv(rows: pl.DataFrame) -> str:
    """The rows as PostgreSQL's CSV: every text in quotes, so that an empty one is not null."""
    times = [name for name, dtype in rows.schema.items() if isinstance(dtype, pl.Datetime)]
    text = rows.with_columns(pl.col(times).dt.to_string("iso:strict"))
    return text.write_csv(include_header=False, quote_style="non_numeric")
