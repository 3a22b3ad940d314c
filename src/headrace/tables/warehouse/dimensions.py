"""Dimensions: their rows, with the history of each member where it is kept, and their tables in PostgreSQL."""

from __future__ import annotations

import polars as pl
import psycopg
from psycopg import sql

from headrace.declare.publish import Dimension, Publication
from headrace.kernel.counts import plural
from headrace.kernel.errors import ProjectError, Refused
from headrace.tables.failures import describe_row
from headrace.tables.warehouse.copy import copy_rows, read_rows, sql_type

__all__ = ["DimensionTable", "dimension_columns", "dimension_rows"]

VALID_FROM, VALID_TO, IS_CURRENT = "valid_from", "valid_to", "is_current"


def dimension_columns(dimension: Dimension, frame: pl.LazyFrame) -> dict[str, pl.DataType]:
    """The columns of a dimension's own, and their types, without reading its rows."""
    return dict(_select(dimension, frame).collect_schema())


def dimension_rows(dimension: Dimension, frame: pl.LazyFrame, where: str) -> pl.DataFrame:
    """The rows of a dimension, without surrogate keys: one for each member, or for each state of it.

    With history, a state holds from its time until the time of the member's next state that differs (type 2 of
    R. Kimball, The Data Warehouse Toolkit, chapter 5): the periods of a member have no gaps and no overlaps.

    Raises:
        ProjectError: a column is missing, or has a name or a type that it cannot have.
        Refused: a member has no key, or two rows; or no time, or two different states at one time.
    """
    rows = _select(dimension, frame).collect(engine="streaming")
    key, since = dimension.key, dimension.since
    for column in (key, since or key):
        if column not in rows.columns:
            raise ProjectError(f"{dimension.name} has no column {column!r}", where=where)
        if rows[column].null_count():
            raise Refused(
                f"column {column} is null in {plural(rows[column].null_count(), 'row')} of {dimension.name}",
                where=where,
            )
    if not (rows.schema[key].is_integer() or rows.schema[key] == pl.String):
        raise ProjectError(f"the key {key!r} of {dimension.name} must be whole numbers or texts", where=where)
    if taken := {dimension.surrogate, VALID_FROM, VALID_TO, IS_CURRENT} & (set(rows.columns) - {since}):
        raise ProjectError(f"{dimension.name} cannot have the column {min(taken)!r} of its own", where=where)
    identity = [key] if since is None else [key, since]
    distinct = rows.unique(maintain_order=True) if since else rows
    twice = distinct.filter(pl.struct(identity).is_duplicated())
    if len(twice):
        remedy = "A member has one row." if since is None else "A member has one state at a time."
        raise Refused(
            f"{dimension.name} has {describe_row(twice[0].select(identity).row(0, named=True))} twice",
            where=where,
            remedy=remedy,
        )
    return rows.sort(key) if since is None else _history(distinct, key, since)


def _select(dimension: Dimension, frame: pl.LazyFrame) -> pl.LazyFrame:
    return dimension.rows(frame) if dimension.rows else frame


def _history(rows: pl.DataFrame, key: str, since: str) -> pl.DataFrame:
    attributes = [name for name in rows.columns if name not in (key, since)]
    ordered = rows.sort(key, since).select(key, *attributes, pl.col(since).alias(VALID_FROM))
    differs = [pl.col(name).ne_missing(pl.col(name).shift(1)) for name in (key, *attributes)]
    states = ordered.filter(pl.any_horizontal(differs) | (pl.int_range(pl.len()) == 0))
    valid_to = pl.col(VALID_FROM).shift(-1).over(key, order_by=VALID_FROM)
    return states.with_columns(valid_to.alias(VALID_TO), valid_to.is_null().alias(IS_CURRENT))


class DimensionTable:
    """A dimension's table in a schema of PostgreSQL, within a transaction."""

    def __init__(
        self, dimension: Dimension, publication: Publication, schema: str, cursor: psycopg.Cursor
    ) -> None:
        self.dimension = dimension
        self._where = str(publication.place)
        self._cursor = cursor
        self._name = sql.Identifier(schema, dimension.name)
        self._surrogate = sql.Identifier(dimension.surrogate)
        self._identity = [dimension.key, *([VALID_FROM] if dimension.since else [])]
        self._staging = sql.Identifier(f"staging_{dimension.name}")

    def create(self, rows: pl.DataFrame) -> None:
        """Creates the table for rows of these columns."""
        columns = [
            sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(sql_type(name, dtype, self._where)))
            for name, dtype in rows.schema.items()
        ]
        unique = sql.SQL(", ").join(map(sql.Identifier, self._identity))
        self._cursor.execute(
            sql.SQL(
                "create table {} ({} bigint generated always as identity primary key, {}, unique ({}))"
            ).format(self._name, self._surrogate, sql.SQL(", ").join(columns), unique)
        )

    def update(self, rows: pl.DataFrame) -> None:
        """Inserts new rows and updates changed ones. Rows that are gone stay until `remove_gone`."""
        names = list(map(sql.Identifier, rows.columns))
        columns = sql.SQL(", ").join(names)
        run, same = self._cursor.execute, self._same("d", "s")
        run(
            sql.SQL("create temporary table {} on commit drop as select {} from {} limit 0").format(
                self._staging, columns, self._name
            )
        )
        copy_rows(self._cursor, self._staging, rows.columns, [rows])
        run(sql.SQL("analyze {}").format(self._staging))
        run(
            sql.SQL(
                "insert into {name} ({columns}) select {columns} from {staging} s"
                " where not exists (select from {name} d where {same}) order by {order}"
            ).format(
                name=self._name,
                columns=columns,
                staging=self._staging,
                same=same,
                order=sql.SQL(", ").join(map(sql.Identifier, self._identity)),
            )
        )
        others = [sql.Identifier(name) for name in rows.columns if name not in self._identity]
        if others:
            listed = [
                sql.SQL(", ").join(sql.SQL("{}.{}").format(sql.SQL(of), n) for n in others) for of in "ds"
            ]
            run(
                sql.SQL("update {} d set {} from {} s where {} and row({}) is distinct from row({})").format(
                    self._name,
                    sql.SQL(", ").join(sql.SQL("{} = s.{}").format(name, name) for name in others),
                    self._staging,
                    same,
                    *listed,
                )
            )

    def keys(self, dtype: pl.DataType) -> pl.DataFrame:
        """The surrogate key of each key, and with history the time (in microseconds since 1970) from which it
        holds."""
        since = sql.SQL("(extract(epoch from {}) * 1000000)::bigint").format(sql.Identifier(VALID_FROM))
        query = sql.SQL("select {}, {}, {} from {} s where exists (select from {} d where {})").format(
            sql.Identifier(self.dimension.key),
            self._surrogate,
            since if self.dimension.since else sql.SQL("0"),
            self._name,
            self._staging,
            self._same("d", "s"),
        )
        schema = {"key": dtype, "surrogate": pl.Int64(), "since": pl.Int64()}
        return read_rows(self._cursor, query, schema)

    def move_facts(self, fact: sql.Composable, time: str) -> None:
        """Points each fact to the state of its member that holds at the time of the fact."""
        if self.dimension.since is None:
            return
        self._cursor.execute(
            sql.SQL(
                "update {fact} f set {surrogate} = n.{surrogate}"
                " from {name} o join {name} n on n.{key} = o.{key}"
                " join {staging} s on s.{key} = n.{key} and s.valid_from = n.valid_from"
                " where f.{surrogate} = o.{surrogate} and n.{surrogate} <> o.{surrogate}"
                " and f.{time} >= n.valid_from and (n.valid_to is null or f.{time} < n.valid_to)"
            ).format(
                fact=fact,
                surrogate=self._surrogate,
                name=self._name,
                key=sql.Identifier(self.dimension.key),
                staging=self._staging,
                time=sql.Identifier(time),
            )
        )

    def remove_gone(self) -> None:
        """Removes the rows that the dimension no longer has.

        Raises:
            Refused: a fact refers to one of them.
        """
        try:
            self._cursor.execute(
                sql.SQL("delete from {} d where not exists (select from {} s where {})").format(
                    self._name, self._staging, self._same("d", "s")
                )
            )
        except psycopg.errors.ForeignKeyViolation as error:
            raise Refused(
                f"facts refer to a member that {self.dimension.name} no longer has:"
                f" {error.diag.message_detail}",
                where=self._where,
                remedy="Keep the member in the dimension, or remove its facts.",
            ) from error

    def _same(self, left: str, right: str) -> sql.Composable:
        pairs = [
            sql.SQL("{}.{} = {}.{}").format(sql.SQL(left), sql.Identifier(n), sql.SQL(right), sql.Identifier(n))
            for n in self._identity
        ]
        return sql.SQL(" and ").join(pairs)
