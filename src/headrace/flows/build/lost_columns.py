"""Finds what reads columns that tables are about to lose, before a build runs.

A table's columns after the build are those of its function, called without rows (tables.columns). A stored
column that is not among them is lost, or has another name. The code that reads these is that of the project as
it is now, so a reader that was edited together with the table is none.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping

import polars as pl

from headrace.declare.publish import Publication
from headrace.declare.table import Table
from headrace.features.plan import StoredView, WindowedView
from headrace.flows.build.context import BuildContext
from headrace.flows.build.project_code import rename_pieces
from headrace.kernel.errors import HeadraceError, Refused
from headrace.kernel.properties import CODE, RENAMES
from headrace.lake import Lake
from headrace.projects.project import Project
from headrace.tables.columns import find_missing_columns, find_table_columns, function_without_rows
from headrace.tables.read import input_name, read_input

__all__ = ["check_lost_columns", "find_changed_tables"]


class _Columns:
    """What becomes of the columns of the project's tables.

    Attributes:
        after: table → the columns that it will have, where they are known and may differ from the stored ones.
        lost: table → the columns that it loses.
        readers: (table, column that it loses) → what reads it.
    """

    def __init__(self) -> None:
        self.after: dict[str, pl.Schema] = {}
        self.lost: dict[str, pl.Schema] = {}
        self.readers: dict[tuple[str, str], list[str]] = {}

    def add_reader(self, table: str, columns: Iterable[str], reader: str) -> None:
        """Adds a reader of columns, if the table loses them."""
        for column in dict.fromkeys(columns):
            if column in self.lost.get(table, ()):
                self.readers.setdefault((table, column), []).append(reader)


def check_lost_columns(context: BuildContext) -> None:
    """Checks that nothing in the project reads a column that changed code takes from a table.

    Raises:
        Refused: something does; names every column and its readers.
    """
    changed = find_changed_tables(context)
    if not changed:
        return
    project = context.project(features=bool(context.code.models))
    columns = _follow_tables(project, context.lake, changed)
    if columns.lost:
        _add_models(columns, project)
        for publication in project.publications.values():
            _add_publication(columns, publication)
            _add_views(columns, publication, project, context.lake)
    if columns.readers:
        raise _refusal(project, columns.readers)


def find_changed_tables(context: BuildContext) -> set[str]:
    """The tables that exist, and whose code or names of columns have changed since they were made."""
    return {name for name in context.code.tables if _is_changed(context, name)}


def _is_changed(context: BuildContext, name: str) -> bool:
    if not context.lake.table_exists(name):
        return False
    stored = context.lake.table(name)
    if stored.property(CODE) not in (None, context.code.table_digest(name)):
        return True
    recorded: dict[str, str] = json.loads(stored.property(RENAMES) or "{}")
    return context.code.renames.get(name, []) != rename_pieces(name, recorded)


def _follow_tables(project: Project, lake: Lake, changed: Collection[str]) -> _Columns:
    """The columns that the tables will have, and the tables that read lost ones."""
    columns = _Columns()
    for table in project.tables.values():  # each after those that it reads
        names = [input_name(declared) for declared in project.inputs(table)]
        is_affected = table.name in changed or any(name in columns.after for name in names)
        inputs = _inputs_after(project, lake, table, columns) if is_affected else None
        if inputs is None or not lake.table_exists(table.name):
            continue
        lost = [columns.lost.get(name, pl.Schema()) for name in names]
        for number, column in find_missing_columns(function_without_rows(table), inputs, lost):
            columns.add_reader(names[number], [column], f"table {table.name} ({table.place})")
            inputs[number] = pl.Schema({**inputs[number], column: lost[number][column]})
        stored = lake.table(table.name).scan().collect_schema()
        schema = find_table_columns(table, inputs)
        if table.query is not None:
            schema = _columns_of_query(project, table, stored)
        if schema is not None:
            columns.after[table.name] = schema
            gone = pl.Schema({name: dtype for name, dtype in stored.items() if name not in schema})
            columns.lost |= {table.name: gone} if gone else {}
    return columns


def _columns_of_query(project: Project, table: Table, stored: pl.Schema) -> pl.Schema:
    """The columns that the table of a query will have; those that it has not yet count as texts."""
    assert table.query is not None, "the caller has checked it"
    from headrace.tables.databases import open_database

    with open_database(project.settings, table.query.database, str(table.place)) as database:
        names = database.column_names(table.query.sql)
    return pl.Schema({name: stored.get(name, pl.String()) for name in names})


def _inputs_after(project: Project, lake: Lake, table: Table, columns: _Columns) -> list[pl.Schema] | None:
    """The columns that the inputs of the table will have; None if one of them cannot be read yet."""
    schemas = []
    for declared in project.inputs(table):
        name = input_name(declared)
        if isinstance(declared, Table) and name in columns.after:
            schemas.append(columns.after[name])
            continue
        try:
            schemas.append(read_input(project, lake, declared).collect_schema())
        except HeadraceError:  # the build itself names what is wrong with the input
            return None
    return schemas


def _add_models(columns: _Columns, project: Project) -> None:
    """Adds the feature views and the labels of models that read lost columns."""
    if not project.models:
        return
    from headrace.features.feast import compile as compile_plan

    for model in project.models.values():
        plan = compile_plan(project, model)
        of_model = f"of model {model.name} ({model.place})"
        for view in plan.stored:
            columns.add_reader(view.table, _columns_of_view(view), f"feature view {view.name} {of_model}")
        read = [model.target, "event_timestamp", *(key.join_key for key in plan.entities)]
        read += [request.name for request in plan.request]
        columns.add_reader(model.labels.name, read, f"the labels {of_model}")


def _columns_of_view(view: StoredView) -> list[str]:
    if isinstance(view, WindowedView):
        return [*view.keys, view.time, *(column.name for column in view.columns)]
    names = [*view.keys, view.time, *(feature.name for feature in view.features)]
    return [view.column(name) for name in names] + ([view.created] if view.created else [])


def _add_publication(columns: _Columns, publication: Publication) -> None:
    """Adds the facts and dimensions of a publication that read lost columns. Those that have all columns of
    their table lose them too."""
    where = f"of publication {publication.name} ({publication.place})"
    for fact in publication.facts:
        columns.add_reader(
            fact.reads.name, [fact.time, *fact.references, *(fact.columns or ())], f"{fact.name} {where}"
        )
    for dimension in publication.dimensions:
        table = dimension.reads.name
        read = [dimension.key, *([dimension.since] if dimension.since else [])]
        if dimension.rows is not None and table in columns.lost:
            lost = columns.lost[table]
            missing = find_missing_columns(dimension.rows, [columns.after[table]], [lost])
            read = [column for _, column in missing]
        columns.add_reader(table, read, f"{dimension.name} {where}")


def _add_views(columns: _Columns, publication: Publication, project: Project, lake: Lake) -> None:
    """Adds the views of a publication that read lost columns, if this profile publishes it."""
    url = project.settings.databases.addresses.get(publication.database)
    tables = [table.name for table in publication.tables]
    if url is None or not publication.views or columns.lost.keys().isdisjoint(tables):
        return
    if not all(lake.table_exists(name) for name in tables):  # then nothing is published yet
        return
    from headrace.kernel.extras import require

    require("psycopg", "a publication")
    from headrace.tables.warehouse.rehearsal import find_view_readers

    after = {name: columns.after.get(name) or lake.table(name).scan().collect_schema() for name in tables}
    where = f"of publication {publication.name} ({publication.place})"
    for table, column, view in find_view_readers(publication, url, after, columns.lost):
        columns.add_reader(table, [column], f"view {view} {where}")


def _refusal(project: Project, readers: Mapping[tuple[str, str], list[str]]) -> Refused:
    lines, places = [], dict[str, None]()
    for (name, column), described in readers.items():
        table = project.table(name)
        new = table.renames.get(column)
        change = "is not one of its columns any more" if new is None else f"is renamed to {new!r}"
        lines.append(f"column {column!r} of table {name} {change}, and is read by {', '.join(described)}")
        places[f"table {name} ({table.place})"] = None
    return Refused(
        "\n".join(lines),
        where=", ".join(places),
        remedy="Change what reads the columns in the same edit, or keep the columns. Nothing was built.",
    )
