"""Finds the views of a publication that read columns which its tables are about to lose.

PostgreSQL is asked, which alone knows what a view reads: in a transaction that is rolled back, the views are
created over empty tables.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
import psycopg
from polars.exceptions import PanicException
from psycopg import sql

from headrace.declare.publish import Dimension, Publication
from headrace.tables.warehouse.connection import transaction
from headrace.tables.warehouse.dimensions import DimensionTable, dimension_rows
from headrace.tables.warehouse.facts import FactTable
from headrace.tables.warehouse.schema import create_dates, create_views, unused_name

__all__ = ["find_view_readers"]

Schemas = Mapping[str, pl.Schema]
"""Table → its columns."""


def find_view_readers(
    publication: Publication, url: str, after: Schemas, lost: Schemas
) -> list[tuple[str, str, str]]:
    """The table, the column and the view, for each column that a table loses and a view cannot do without.

    A view that cannot be created even with the lost columns is left to the publication, which names the error.

    Args:
        publication: the publication, as it is declared now.
        url: the address of its PostgreSQL database.
        after: table → the columns that it will have, for each table of the publication.
        lost: table → the columns that it loses.

    Raises:
        ProjectError: the address is not PostgreSQL's, or this user may not create a schema.
        Unavailable: PostgreSQL cannot be reached.
    """
    whole = {name: pl.Schema({**schema, **lost.get(name, {})}) for name, schema in after.items()}
    readers: list[tuple[str, str, str]] = []
    with transaction(url, str(publication.place)) as cursor:
        broken = _find_broken_views(publication, cursor, whole, whole)
        for table in whole:
            for column in lost.get(table, ()):
                rest = pl.Schema({name: dtype for name, dtype in whole[table].items() if name != column})
                failing = _find_broken_views(publication, cursor, {**whole, table: rest}, whole)
                readers += [(table, column, view) for view in publication.views if view in failing - broken]
    return readers


def _find_broken_views(
    publication: Publication, cursor: psycopg.Cursor, schemas: Schemas, whole: Schemas
) -> set[str]:
    """The views that cannot be created if the tables have these columns.

    Args:
        publication: the publication.
        cursor: in a transaction.
        schemas: the columns.
        whole: those of a fact or dimension that itself cannot do with `schemas`.
    """
    schema, connection = unused_name(publication.name), cursor.connection
    broken = set()
    with connection.transaction(force_rollback=True):
        cursor.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
        create_dates(cursor, schema)
        _create_tables(publication, cursor, schema, schemas, whole)
        for name, select in publication.views.items():
            try:
                with connection.transaction():
                    create_views(cursor, schema, {name: select})
            except (psycopg.ProgrammingError, psycopg.NotSupportedError):
                broken.add(name)
    return broken


def _create_tables(
    publication: Publication, cursor: psycopg.Cursor, schema: str, schemas: Schemas, whole: Schemas
) -> None:
    """Creates the facts and dimensions without rows, except those that cannot be told without rows."""
    for dimension in publication.dimensions:
        for tables in (schemas, whole):
            rows = _rows_without_rows(dimension, tables[dimension.reads.name], str(publication.place))
            if rows is not None:
                DimensionTable(dimension, publication, schema, cursor).create(rows)
                break
    for fact in publication.facts:
        table = FactTable(fact, publication, schema, cursor)
        needed = {fact.time, *fact.references, *(fact.columns or ())}
        columns = schemas[fact.reads.name]
        table.create(table.columns(columns if needed <= columns.keys() else whole[fact.reads.name]))


def _rows_without_rows(dimension: Dimension, columns: pl.Schema, where: str) -> pl.DataFrame | None:
    try:
        return dimension_rows(dimension, pl.LazyFrame(schema=columns), where)
    except (Exception, PanicException):  # its function needs a column that is gone, or rows
        return None
