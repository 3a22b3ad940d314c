"""The schema of a publication in PostgreSQL: its dates, who may read it, and how a new one takes its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import polars as pl
import psycopg
from psycopg import sql

from headrace.kernel.errors import Refused
from headrace.kernel.ids import new_id
from headrace.tables.warehouse.facts import DATES

__all__ = [
    "add_dates",
    "check_views_of_others",
    "copy_grants",
    "create_dates",
    "create_views",
    "remove_dates",
    "swap",
    "unused_name",
]

_DATES = """
create table {} (
    date_key integer primary key, date date not null unique, year smallint not null, quarter smallint not null,
    month smallint not null, day smallint not null, weekday smallint not null, is_weekend boolean not null
)
"""
_ADD_DATES = """
insert into {} select to_char(d, 'YYYYMMDD')::integer, d::date, extract(year from d), extract(quarter from d),
    extract(month from d), extract(day from d), extract(isodow from d), extract(isodow from d) > 5
from generate_series(%s::timestamp, %s::timestamp, interval '1 day') d on conflict do nothing
"""
_OTHER_VIEWS = """
select distinct format('%%I.%%I', n.nspname, c.relname) from pg_depend d
join pg_rewrite r on r.oid = d.objid and d.classid = 'pg_rewrite'::regclass
join pg_class c on c.oid = r.ev_class join pg_namespace n on n.oid = c.relnamespace
join pg_class used on used.oid = d.refobjid and d.refclassid = 'pg_class'::regclass
where used.relnamespace = to_regnamespace(%s) and n.nspname <> %s order by 1
"""
_SCHEMA_GRANTS = """
select g.privilege_type, case when g.grantee = 0 then null else g.grantee::regrole::text end
from pg_namespace n, aclexplode(n.nspacl) g where n.nspname = %s and g.grantee <> n.nspowner
"""
_TABLE_GRANTS = """
select c.relname, g.privilege_type, case when g.grantee = 0 then null else g.grantee::regrole::text end
from pg_class c, aclexplode(c.relacl) g
where c.relnamespace = to_regnamespace(%s) and c.relkind in ('r', 'v') and g.grantee <> c.relowner
"""


def create_dates(cursor: psycopg.Cursor, schema: str) -> None:
    """Creates the dimension of dates."""
    cursor.execute(sql.SQL(_DATES).format(sql.Identifier(schema, DATES)))


def create_views(cursor: psycopg.Cursor, schema: str, views: Mapping[str, str]) -> None:
    """Creates views. They name the tables of the schema, and the views before them, without the schema."""
    cursor.execute(sql.SQL("set local search_path to {}").format(sql.Identifier(schema)))
    for name, select in views.items():
        cursor.execute(sql.SQL("create view {} as ").format(sql.Identifier(schema, name)) + sql.SQL(select))
    cursor.execute("reset search_path")


def add_dates(cursor: psycopg.Cursor, schema: str, times: Iterable[tuple[pl.LazyFrame, str]]) -> list[str]:
    """Adds every UTC day from the first of all facts to the last.

    Args:
        cursor: the cursor of the transaction.
        schema: the schema of the dimension.
        times: the rows of each table of facts, and the column with their time.

    Returns:
        The first day and the last one; none if there are no facts.
    """
    days = set()
    for rows, time in times:
        day = pl.col(time).cast(pl.Date)
        days |= set(rows.select(day.min().alias("first"), day.max().alias("last")).collect().row(0)) - {None}
    if not days:
        return []
    span = [f"{day:%Y-%m-%d}" for day in (min(days), max(days))]
    cursor.execute(sql.SQL(_ADD_DATES).format(sql.Identifier(schema, DATES)), span)
    return span


def remove_dates(cursor: psycopg.Cursor, schema: str, span: Sequence[str]) -> None:
    """Removes the days outside of what `add_dates` returned, which no fact refers to any more."""
    dates = sql.Identifier(schema, DATES)
    if span:
        remove = sql.SQL("delete from {} where date not between %s::date and %s::date")
        cursor.execute(remove.format(dates), span)
    else:
        cursor.execute(sql.SQL("delete from {}").format(dates))


def check_views_of_others(cursor: psycopg.Cursor, schema: str, where: str) -> None:
    """Checks that no view outside of the schema reads it: such a view would be lost with the old tables.

    Raises:
        Refused: there is one.
    """
    views = [row[0] for row in cursor.execute(_OTHER_VIEWS, (schema, schema)).fetchall()]
    if views:
        raise Refused(
            f"the code of {schema!r} changed, so its tables are made anew, and views read the old ones:"
            f" {', '.join(views)}",
            where=where,
            remedy="Declare them as views of the publication, or drop them and create them again afterwards.",
        )


def copy_grants(cursor: psycopg.Cursor, old: str, new: str) -> None:
    """Lets those read the new schema who may read the old one."""
    for privilege, role in cursor.execute(_SCHEMA_GRANTS, (old,)).fetchall():
        cursor.execute(_grant(privilege, sql.SQL("schema {}").format(sql.Identifier(new)), role))
    present = {
        row[0]
        for row in cursor.execute(
            "select relname from pg_class where relnamespace = to_regnamespace(%s)", (new,)
        )
    }
    for table, privilege, role in cursor.execute(_TABLE_GRANTS, (old,)).fetchall():
        if table in present:
            cursor.execute(_grant(privilege, sql.Identifier(new, table), role))


def _grant(privilege: str, target: sql.Composable, role: str | None) -> sql.Composed:
    to = sql.SQL("public") if role is None else sql.SQL(role)  # PostgreSQL has quoted it
    return sql.SQL("grant {} on {} to {}").format(sql.SQL(privilege), target, to)


def swap(cursor: psycopg.Cursor, new: str, name: str, *, exists: bool) -> None:
    """Gives the new schema the name, and drops the one that had it."""
    former = unused_name(name)
    if exists:
        rename = sql.SQL("alter schema {} rename to {}")
        cursor.execute(rename.format(sql.Identifier(name), sql.Identifier(former)))
    cursor.execute(sql.SQL("alter schema {} rename to {}").format(sql.Identifier(new), sql.Identifier(name)))
    if exists:
        cursor.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(former)))


def unused_name(schema: str) -> str:
    """A name for a schema that lasts as long as a transaction, which no other schema of the database has."""
    return f"{schema}_{new_id()[-8:]}"
