"""Computes the rows of a windowed view's table from a topic's good events, in the lake and on the stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import polars as pl
from polars.exceptions import PanicException

from headrace.code.external import external_digests
from headrace.code.fingerprint import fingerprint
from headrace.code.index import CodeIndex
from headrace.declare.event import Contract
from headrace.declare.table import Table
from headrace.features.plan import WindowedView
from headrace.kernel.errors import ProjectError
from headrace.projects.loader import module_stamps, project_files
from headrace.projects.project import Project
from headrace.tables.call import collect_frames
from headrace.tables.failures import FailedRow
from headrace.tables.read import Readable
from headrace.tables.rowwise import RowwiseCalls

__all__ = ["ComputedRows", "code_of", "codes_as_loaded", "codes_of", "is_of_other_code", "rows_of"]


def codes_of(project: Project) -> dict[str, str]:
    """Rowwise table → the fingerprint of its function in the present source files (WindowedView.code)."""
    index = CodeIndex(project_files(project.settings))
    rowwise = [table for table in project.tables.values() if table.rowwise]
    return {table.name: code_of(project, table, index) for table in rowwise}


def codes_as_loaded(project: Project) -> dict[str, str]:
    """As `codes_of`, for a process that runs the functions: the codes are those of the functions it imported.

    Raises:
        ProjectError: the project's files were edited since they were imported.
    """
    codes = codes_of(project)
    if module_stamps(project.settings) != project.stamps:
        raise ProjectError(
            "the project's code was edited while this process was starting",
            where=str(project.settings.root / project.settings.project),
            remedy="Start it again.",
        )
    return codes


def code_of(project: Project, table: Table, index: CodeIndex) -> str:
    """The fingerprint of a rowwise table's function, and of the files and environment variables that it
    declares to read."""
    if not (table.reads_files or table.env):
        return fingerprint(table.function, index)
    external = external_digests(project.settings.root, table.reads_files, table.env)
    return fingerprint([table.function, external], index)


def is_of_other_code(view: WindowedView, codes: Mapping[str, str]) -> bool:
    """Whether the view was compiled with other code of its rowwise function than `codes` (`codes_of`) has."""
    return view.rowwise is not None and bool(view.code) and view.code != codes.get(view.rowwise)


class ComputedRows(NamedTuple):
    """The rows of a windowed view's table.

    Attributes:
        rows: the views' keys, times and columns.
        failed: what a rowwise function failed on; it makes no rows.
    """

    rows: pl.DataFrame
    failed: list[FailedRow]


def rows_of(
    project: Project, views: Sequence[WindowedView], *, since: datetime | None = None
) -> Callable[[pl.LazyFrame], ComputedRows]:
    """A function that computes, from a topic's good events, the rows of the table that these views share.

    f(a + b) = f(a) + f(b), so it may be called with any part of the events. It raises ProjectError if a rowwise
    function fails as a whole (tables.rowwise).

    Args:
        project: the project that declares the topic and the rowwise tables.
        views: views of one table.
        since: leaves out earlier rows.

    Raises:
        ProjectError: the project no longer has the table, or it is not rowwise down to the topic.
    """
    steps = _steps(project, views[0])
    columns = (name for v in views for name in (*v.keys, v.time, *(field.name for field in v.columns)))
    names = list(dict.fromkeys(columns))

    def select(rows: pl.LazyFrame) -> pl.LazyFrame:
        rows = rows.select(names)
        return rows if since is None else rows.filter(pl.col(views[0].time) >= since)

    def compute(events: pl.LazyFrame) -> ComputedRows:
        lazy = events
        try:
            for table, _ in steps:
                lazy = table(lazy)
            return ComputedRows(select(lazy).collect(), [])
        except (Exception, PanicException):
            if not steps:
                raise
        rows, failed = events.collect(), list[FailedRow]()
        for table, read in steps:
            calls = RowwiseCalls(table, read, len(rows))
            rows = calls.call(rows)
            failed += calls.failed
        return ComputedRows(collect_frames(steps[-1][0], [select(rows.lazy())])[0], failed)

    return compute


def _steps(project: Project, view: WindowedView) -> list[tuple[Table, Readable]]:
    """The rowwise tables from the topic to the view's table, each with what it reads."""
    steps: list[tuple[Table, Readable]] = []
    name = view.rowwise
    while name is not None:
        if name not in project.tables:
            raise ProjectError(
                f"view {view.name!r} reads table {name!r}, which the project does not have",
                remedy=f"The project's tables: {', '.join(sorted(project.tables))}.",
            )
        table = project.tables[name]
        (read,) = project.inputs(table) if table.rowwise else (None,)
        if isinstance(read, Table):
            name = read.name
        elif isinstance(read, Contract) and read.topic == view.topic:
            name = None
        else:
            raise ProjectError(
                f"view {view.name!r} needs table {table.name!r} to be rowwise over topic {view.topic!r}",
                where=str(table.place),
            )
        steps.append((table, read))
    return steps[::-1]
