"""query: a table of the rows that a query of a database returns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs

from headrace.declare.convert import to_tuple
from headrace.declare.place import Place
from headrace.declare.source import column_types
from headrace.declare.table import Table, check_audits
from headrace.kernel.errors import ProjectError
from headrace.kernel.time import parse_duration

if TYPE_CHECKING:
    import dataframely as dy
    import polars as pl

    from headrace.declare.audits import Audit

__all__ = ["Query", "query"]

_NAME = re.compile(r"[a-zA-Z]\w*", re.ASCII)


@attrs.frozen(eq=False)
class Query:
    """A query of a database, which makes a table (see `query`).

    Attributes:
        sql: a SELECT statement.
        database: a name among the setting `databases`.
        schema: column → polars type, for the columns whose type is declared.
        cursor: the column by which the rows are read incrementally; None: all rows are read each time.
        overlap: how far behind the highest cursor value reading begins.
        key: the columns that identify a row.
    """

    sql: str
    database: str
    schema: Mapping[str, pl.DataType]
    cursor: str | None
    overlap: int | timedelta
    key: tuple[str, ...]


def query(
    name: str,
    sql: str,
    *,
    database: str,
    schema: Mapping[str, Any] | None = None,
    cursor: str | None = None,
    overlap: int | str | timedelta | None = None,
    key: str | Sequence[str] = (),
    audit: type[dy.Schema] | None = None,
    audits: Audit | Sequence[Audit] = (),
) -> Table:
    """Declares a table of the rows that a query of a database returns; other tables read it.

        orders = query("orders", "select * from orders", database="shop", cursor="updated_at", overlap="10m",
                       key="id")

    Each build reads the database. Without `cursor` it reads all rows, and replaces the table if they differ.
    With `cursor` it reads the rows whose cursor is at least the highest one in the table less `overlap`. These
    replace the table's rows of that range and, with `key`, the rows with the same keys.

    Args:
        name: the name of the table.
        sql: a SELECT statement, without `;`.
        database: the name of the database; headrace.toml has its address: `databases = { shop = "..." }`.
        schema: column → type, where the database's own type is not the wanted one (see `source`).
        cursor: a column that never falls for later rows: a serial number, or the time of the last change.
        overlap: how late a row may be committed, by its cursor: a duration such as `10m` for times and dates, a
            number for numbers, 0 for text. Needed with `cursor`.
        key: the columns that identify a row; needed if a row's cursor rises when the row changes.
        audit: a dataframely schema that every row must satisfy.
        audits: what must hold of the rows besides, as for `table`.

    Raises:
        ProjectError: the name, the statement, `overlap`, an audit or a type is not valid, `cursor` lacks its
            `overlap`, or `overlap` or `key` lacks its `cursor`.
    """
    place = Place.of_caller()
    _check_query(name, sql, cursor, overlap, key, place)
    read = Query(
        sql.strip().rstrip(";"),
        database,
        column_types(schema, place),
        cursor,
        _to_overlap(overlap, place),
        to_tuple(key),
    )
    return Table(
        name=name,
        function=_refuse_call,
        reads=(),
        place=place,
        schema=audit,
        query=read,
        audits=check_audits(audits, None, audit, place),
    )


def _check_query(name: str, sql: str, cursor: str | None, overlap: Any, key: Any, place: Place) -> None:
    if not _NAME.fullmatch(name):
        remedy = "Begin it with a letter; then letters, digits and _ may follow."
        raise ProjectError(f"{name!r} is not a valid table name", where=str(place), remedy=remedy)
    if not sql.strip() or ";" in sql.strip().rstrip(";"):
        raise ProjectError(f"sql={sql[:60]!r} is not one SELECT statement", where=str(place))
    if (cursor is None) != (overlap is None) or (key and cursor is None):
        raise ProjectError(
            "cursor= and overlap= belong together, and key= needs them",
            where=str(place),
            remedy="overlap= is how late a row may be committed, by its cursor: later ones are not read."
            ' For example cursor="updated_at", overlap="10m"; without cursor= each build reads all rows.',
        )


def _to_overlap(overlap: Any, place: Place) -> int | timedelta:
    try:
        value = 0 if overlap is None else overlap if isinstance(overlap, int) else parse_duration(overlap)
    except (ValueError, TypeError) as error:
        raise ProjectError(f"overlap={overlap!r}: {error}", where=str(place)) from error
    if (value if isinstance(value, int) else value.total_seconds()) < 0:
        raise ProjectError(f"overlap={overlap!r} must not be negative", where=str(place))
    return value


def _refuse_call(*_: Any) -> Any:
    raise ProjectError("only headrace build makes the table of a query")
