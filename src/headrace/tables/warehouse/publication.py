"""Publishes a star schema: brings PostgreSQL to the tables' snapshots in one transaction.

Readers see the state before or the one after, never one between: rows are replaced under PostgreSQL's own
snapshots, and a schema whose declaration changed is loaded beside the old one and takes its name last. The
snapshots are stored in the same transaction: what was killed is repeated, and what is done is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import psycopg
from psycopg import sql

from headrace.declare.publish import Publication
from headrace.kernel.digest import digest_value
from headrace.kernel.errors import Refused
from headrace.kernel.faults import reach
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.run import Dataset, run
from headrace.lake import Lake
from headrace.tables.warehouse.connection import transaction
from headrace.tables.warehouse.dimensions import DimensionTable, dimension_columns, dimension_rows
from headrace.tables.warehouse.facts import FactTable
from headrace.tables.warehouse.schema import (
    add_dates,
    check_views_of_others,
    copy_grants,
    create_dates,
    create_views,
    remove_dates,
    swap,
    unused_name,
)

__all__ = ["Published", "publish_star", "published_snapshots"]

_STATE = "headrace_publication"
_LAYOUT = 2  # the version of how a star schema is laid out: a higher one loads it anew


class Published(msgspec.Struct, frozen=True):
    """What a publication did.

    Attributes:
        facts: how many facts were loaded; None: everything was up to date.
        what: what was done, in words.
    """

    facts: int | None
    what: str


def publish_star(
    lake: Lake, publication: Publication, url: str, *, at: Mapping[str, int], code: str
) -> Published:
    """Brings the star schema to these snapshots.

    Args:
        lake: the lake of the tables.
        publication: what to publish.
        url: the address of the PostgreSQL database.
        at: table → its snapshot, for each that the publication reads.
        code: the fingerprint of its code; if it has changed, all is loaded anew.

    Raises:
        ProjectError: the address is not PostgreSQL's, a column is missing or cannot be published, or a view is
            not valid SQL.
        Refused: the schema belongs to somebody else, facts and dimensions do not fit, or views outside of the
            schema would be lost.
        Unavailable: PostgreSQL cannot be reached or went away; nothing has changed.
    """
    where = str(publication.place)
    inputs = [Dataset("table", name, SnapshotPosition(name, snapshot)) for name, snapshot in at.items()]
    output = f"{publication.database}.{publication.name}"
    with (
        run(f"publish {publication.name}", inputs=inputs, writes=[Dataset("table", output)]) as this_run,
        transaction(url, where) as cursor,
    ):
        cursor.execute("select pg_advisory_xact_lock(hashtext(%s))", (f"headrace {publication.name}",))
        result = _Star(lake, publication, cursor, at, code).bring_up_to_date()
        reach("publish.before_commit")
        cursor.connection.commit()
        reach("publish.after_commit")
        this_run.add_output(Dataset("table", output, facts={"rows": result.facts}))
    return result


def published_snapshots(schema: str, url: str, where: str) -> dict[str, int]:
    """Table → the snapshot that PostgreSQL has; empty if the schema does not exist.

    Raises:
        Unavailable: PostgreSQL cannot be reached.
    """
    with transaction(url, where) as cursor:
        state = _read_state(cursor, schema)
        return {} if state is None else state.snapshots


class _State(NamedTuple):
    """What a schema was published from.

    Attributes:
        project: the project's name; None: a publication that did not store it yet.
        digest: the digest of what made it.
        snapshots: table → its snapshot.
    """

    project: str | None
    digest: str
    snapshots: dict[str, int]


def _read_state(cursor: psycopg.Cursor, schema: str) -> _State | None:
    """What a schema was published from; None: the schema does not exist.

    Raises:
        Refused: the schema is not one that was published.
    """
    cursor.execute("select to_regnamespace(%s)::oid, to_regclass(%s)::oid", (schema, f"{schema}.{_STATE}"))
    namespace, table = cursor.fetchone() or (None, None)
    if namespace is None:
        return None
    if table is None:
        raise Refused(
            f"the schema {schema!r} exists in PostgreSQL, and was not published by Headrace",
            remedy="Give the publication another name, or drop the schema.",
        )
    rows = cursor.execute(
        sql.SQL("select input, snapshot, digest, to_jsonb(t) ->> 'project' from {} t").format(
            sql.Identifier(schema, _STATE)
        )
    ).fetchall()
    return _State(rows[0][3], rows[0][2], {row[0]: row[1] for row in rows})


class _Star:
    """One publication, within its transaction."""

    def __init__(
        self, lake: Lake, publication: Publication, cursor: psycopg.Cursor, at: Mapping[str, int], code: str
    ) -> None:
        self._lake, self._publication, self._cursor, self._at = lake, publication, cursor, dict(at)
        self._where = str(publication.place)
        self._frames = {name: lake.table(name).scan(snapshot) for name, snapshot in at.items()}
        self._fact_columns = {
            fact.name: FactTable(fact, publication, publication.name, cursor).columns(
                self._frames[fact.reads.name].collect_schema()
            )
            for fact in publication.facts
        }
        dimensions = {
            dimension.name: dimension_columns(dimension, self._frames[dimension.reads.name])
            for dimension in publication.dimensions
        }
        columns = {  # they change with those of the tables read
            table: [(column, str(dtype)) for column, dtype in schema.items()]
            for table, schema in {**dimensions, **self._fact_columns}.items()
        }
        self._digest = digest_value([_LAYOUT, code, sorted(publication.views.items()), columns])

    def bring_up_to_date(self) -> Published:
        """Makes the schema that of the snapshots, and records them."""
        name, project = self._publication.name, self._lake.namespace
        state = _read_state(self._cursor, name)
        if state is not None and state.project not in (None, project):
            raise Refused(
                f"project {state.project!r} publishes to the schema {name!r} of this database",
                where=self._where,
                remedy="Give the publication another name. If the schema is out of use, drop it.",
            )
        if state == (project, self._digest, self._at):
            return Published(None, "was up to date")
        if state is not None and state.digest == self._digest:
            rows, what = self._load(name, state.snapshots)
        else:
            if state is not None:
                check_views_of_others(self._cursor, name, self._where)
            rows, what = self._load_anew(name, exists=state is not None)
        table = sql.Identifier(name, _STATE)
        self._cursor.execute(sql.SQL("delete from {}").format(table))
        self._cursor.executemany(
            sql.SQL("insert into {} values (%s, %s, %s, %s)").format(table),
            [(read, snapshot, self._digest, project) for read, snapshot in self._at.items()],
        )
        return Published(rows, what)

    def _load_anew(self, name: str, *, exists: bool) -> tuple[int, str]:
        """Loads all into a new schema, which then takes the place of the old one."""
        draft, run = unused_name(name), self._cursor.execute
        run(sql.SQL("create schema {}").format(sql.Identifier(draft)))
        columns = (
            "(input text primary key, snapshot bigint not null, digest text not null, project text not null)"
        )
        run(sql.SQL("create table {} " + columns).format(sql.Identifier(draft, _STATE)))
        create_dates(self._cursor, draft)
        rows, _ = self._load(draft, None)
        for fact in self._publication.facts:
            FactTable(fact, self._publication, draft, self._cursor).constrain()
        create_views(self._cursor, draft, self._publication.views)
        if exists:
            copy_grants(self._cursor, name, draft)
        swap(self._cursor, draft, name, exists=exists)
        return rows, "loaded all facts anew"

    def _load(self, schema: str, before: Mapping[str, int] | None) -> tuple[int, str]:
        """Loads what differs from the snapshots `before`; None: all of it, into tables that are created."""
        publication, keys = self._publication, {}
        tables = []
        for dimension in publication.dimensions:
            rows = dimension_rows(dimension, self._frames[dimension.reads.name], self._where)
            table = DimensionTable(dimension, publication, schema, self._cursor)
            if before is None:
                table.create(rows)
            table.update(rows)
            keys[dimension.name] = table.keys(rows.schema[dimension.key])
            tables.append(table)
        loaded, replaced = 0, list[str]()
        facts = [FactTable(fact, publication, schema, self._cursor) for fact in publication.facts]
        frames = [self._frames[fact.reads.name] for fact in publication.facts]
        times = [fact.time for fact in publication.facts]
        days = add_dates(self._cursor, schema, zip(frames, times, strict=True))
        for fact_table, frame in zip(facts, frames, strict=True):
            fact = fact_table.fact
            columns = self._fact_columns[fact.name]
            if before is None:
                fact_table.create(columns)
            snapshot = None if before is None else before.get(fact.reads.name)
            partitions = fact_table.stale_partitions(self._lake, snapshot, self._at[fact.reads.name])
            loaded += fact_table.load(frame, partitions, keys, list(columns))
            grain = "" if fact.reads.partition_by is None else fact.reads.partition_by.grain
            count = "all" if partitions is None else f"{len(partitions)} {grain}{'s' * (len(partitions) != 1)}"
            replaced.append(f"{count} of {fact.name}")
            for table in tables:
                if before is not None and table.dimension in fact.references.values():
                    table.move_facts(fact_table.name, fact.time)
        for table in tables:
            table.remove_gone()
        remove_dates(self._cursor, schema, days)
        return loaded, f"replaced {', '.join(replaced)}"
