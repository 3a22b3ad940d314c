"""Facts: their rows with surrogate keys, a day at a time, and their tables in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import polars as pl
import psycopg
from psycopg import sql

from headrace.declare.partitioning import Partitioning, start_of
from headrace.declare.publish import Fact, Publication
from headrace.kernel.errors import ProjectError, Refused
from headrace.lake import Lake
from headrace.tables.partitions import select_partitions
from headrace.tables.warehouse.copy import NO_ZERO, ZERO, copy_rows, sql_type

__all__ = ["DATES", "FactTable"]

DATES, DATE_KEY = "dim_date", "date_key"
_SINCE = "headrace since"  # a column meanwhile
_BATCH = 500_000  # rows that are in memory at once, of facts without days


class FactTable:
    """The table of facts in a schema of PostgreSQL, within a transaction."""

    def __init__(self, fact: Fact, publication: Publication, schema: str, cursor: psycopg.Cursor) -> None:
        self.fact = fact
        self.name = sql.Identifier(schema, fact.name)
        self._schema = schema
        self._where = f"{publication.place}: {fact.name}"
        self._cursor = cursor

    def columns(self, schema: pl.Schema) -> dict[str, pl.DataType]:
        """The columns of the table in PostgreSQL, for facts of this schema: keys first.

        Raises:
            ProjectError: a column is missing, or two have the same name.
        """
        fact = self.fact
        others = (
            [name for name in schema if name not in fact.references] if fact.columns is None else fact.columns
        )
        for name in (fact.time, *fact.references, *others):
            if name not in schema:
                remedy = f"{fact.reads.name} has the columns {', '.join(schema)}."
                raise ProjectError(f"there is no column {name!r}", where=self._where, remedy=remedy)
        if not schema[fact.time].is_temporal() or isinstance(schema[fact.time], (pl.Time, pl.Duration)):
            raise ProjectError(f"the time {fact.time!r} is {schema[fact.time]}", where=self._where)
        keys = self._key_columns
        named = [fact.time, *(name for name in others if name != fact.time)]
        names = [*keys, *fact.references, *named]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ProjectError(f"two columns have the name {twice[0]!r}", where=self._where)
        return {
            DATE_KEY: pl.Int32(),
            **dict.fromkeys(keys[1:], pl.Int64()),
            **{name: schema[name] for name in named},
        }

    @property
    def _key_columns(self) -> list[str]:
        return [DATE_KEY, *(dimension.surrogate for dimension in self.fact.references.values())]

    def create(self, columns: Mapping[str, pl.DataType]) -> None:
        """Creates the table without its indexes and references."""
        declared = [
            sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(sql_type(name, dtype, self._where)))
            for name, dtype in columns.items()
        ]
        self._cursor.execute(sql.SQL("create table {} ({})").format(self.name, sql.SQL(", ").join(declared)))

    def constrain(self) -> None:
        """Adds the references to the dimensions, and an index for each and for the time."""
        targets = {d.surrogate: d.name for d in self.fact.references.values()} | {DATE_KEY: DATES}
        for column, target in targets.items():
            self._cursor.execute(
                sql.SQL("alter table {} add foreign key ({}) references {}").format(
                    self.name, sql.Identifier(column), sql.Identifier(self._schema, target)
                )
            )
        for column in (*targets, self.fact.time):
            self._cursor.execute(sql.SQL("create index on {} ({})").format(self.name, sql.Identifier(column)))

    def stale_partitions(self, lake: Lake, before: int | None, now: int) -> set[int] | None:
        """The partitions whose facts differ between two snapshots; None: all facts are replaced."""
        by = self.fact.reads.partition_by
        if before is None or by is None or by.column != self.fact.time or not by.is_time or by.timezone:
            return None
        return lake.table(self.fact.reads.name).partitions_changed((by.column, by.transform), before, now)

    def load(
        self,
        frame: pl.LazyFrame,
        partitions: set[int] | None,
        keys: Mapping[str, pl.DataFrame],
        columns: Sequence[str],
    ) -> int:
        """Replaces the facts of some partitions, or all. Returns how many were loaded.

        Args:
            frame: all facts, with the dimensions' own keys.
            partitions: the numbers of the partitions; None: all.
            keys: dimension → its surrogate keys (DimensionTable.keys).
            columns: the columns of the table.

        Raises:
            ProjectError: a reference is not of the type of its dimension's key.
            Refused: a fact refers to a member that its dimension does not have, or has no time.
        """
        by = self.fact.reads.partition_by
        if partitions is None or by is None:
            self._cursor.execute(sql.SQL("delete from {}").format(self.name))
            parts: Iterable[pl.DataFrame] = frame.collect_batches(chunk_size=_BATCH)
        else:
            for number in sorted(partitions):
                self._delete(by, number)
            parts = (
                select_partitions(frame, by, by.column, number, number).collect()
                for number in sorted(partitions)
            )
        return copy_rows(self._cursor, self.name, columns, self._add_keys(parts, keys, columns))

    def _delete(self, by: Partitioning, number: int) -> None:
        """Removes the facts of a partition, a span of time in UTC."""
        limits = [sql.SQL(">= {}").format(start_of(by.grain, number))]
        if number < by.limits[1]:  # later moments do not exist
            limits.append(sql.SQL("< {}").format(start_of(by.grain, number + 1)))
        time = sql.Identifier(self.fact.time)
        wanted = sql.SQL(" and ").join(sql.SQL("{} {}").format(time, limit) for limit in limits)
        self._cursor.execute(sql.SQL("delete from {} where {}").format(self.name, wanted))

    def _add_keys(
        self, parts: Iterable[pl.DataFrame], keys: Mapping[str, pl.DataFrame], columns: Sequence[str]
    ) -> Iterator[pl.DataFrame]:
        time = pl.col(self.fact.time)
        needed = [*self.fact.references, *(name for name in columns if name not in self._key_columns)]
        for part in parts:
            if missing := part[self.fact.time].null_count():
                raise Refused(f"{missing:,} facts have no {self.fact.time}", where=self._where)
            rows = part.select(needed).with_columns(
                (time.dt.year() * 10_000 + time.dt.month().cast(pl.Int32) * 100 + time.dt.day()).alias(DATE_KEY)
            )
            for column, dimension in self.fact.references.items():
                rows = self._look_up(rows, column, keys[dimension.name], dimension.surrogate, dimension.since)
            yield rows

    def _look_up(
        self, rows: pl.DataFrame, column: str, keys: pl.DataFrame, surrogate: str, since: str | None
    ) -> pl.DataFrame:
        keys = self._as_type(keys, column, rows.schema[column]).rename({"surrogate": surrogate})
        if rows.schema[column] == pl.String:  # as the keys came back from PostgreSQL
            rows = rows.with_columns(pl.col(column).str.replace_all(ZERO, NO_ZERO, literal=True))
        if since is None:
            facts = rows.join(keys.drop("since"), left_on=column, right_on="key", how="left")
        else:
            at = pl.col(self.fact.time).cast(pl.Datetime("us")).dt.timestamp("us").alias(_SINCE)
            facts = (
                rows.with_columns(at)
                .sort(_SINCE)
                .join_asof(
                    keys.rename({"since": _SINCE}).sort(_SINCE),
                    on=_SINCE,
                    by_left=column,
                    by_right="key",
                    check_sortedness=False,
                )
            )
        lost = facts.filter(pl.col(surrogate).is_null() & pl.col(column).is_not_null())
        if len(lost):
            dimension = self.fact.references[column].name
            raise Refused(
                f"{len(lost):,} facts have a {column} that {dimension} does not have at their time, such as"
                f" {lost[column][0]!r}",
                where=self._where,
                remedy="Add the members to the dimension, or leave such facts out.",
            )
        return facts.drop(_SINCE, strict=False)

    def _as_type(self, keys: pl.DataFrame, column: str, dtype: pl.DataType) -> pl.DataFrame:
        """The keys that a column of this type can hold, as that type. Each stays a key of its own: a number
        has one text, but several texts (`1`, `01`) are one number.

        Raises:
            ProjectError: keys of their type could become equal in the column's.
        """
        own = keys.schema["key"]
        if dtype != pl.String and not (dtype.is_integer() and own.is_integer()):
            dimension = self.fact.references[column].name
            raise ProjectError(
                f"{column!r} is {dtype}, and the key of {dimension} is {own}",
                where=self._where,
                remedy="Give both the same type.",
            )
        return keys.with_columns(pl.col("key").cast(dtype, strict=False)).drop_nulls("key")
