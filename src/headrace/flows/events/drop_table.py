"""drop-table: deletes a table that a build made: the lake's table, its pointer, its stage in dvc.lock."""

from __future__ import annotations

from headrace.declare.table import Table
from headrace.flows.build import hold_build_lock
from headrace.flows.build.context import BuildContext
from headrace.flows.build.dvc_lock import remove_stage
from headrace.flows.build.pointers import Pointers
from headrace.flows.build.stages.table import TableStage
from headrace.kernel.errors import CallError, Refused
from headrace.kernel.properties import CODE
from headrace.lake import Lake
from headrace.lake.visible import hide_table
from headrace.projects.project import Project
from headrace.tables.audits.report import failing_table
from headrace.tables.pins import unpin_inputs
from headrace.workspace import Workspace

__all__ = ["check_droppable", "drop_table", "find_undeclared_tables"]


def find_undeclared_tables(project: Project, lake: Lake) -> list[str]:
    """The tables in the lake that a build made and that the project no longer declares, sorted."""
    declared = {*project.tables, *(contract.table for contract in project.contracts.values())}
    return [
        name
        for name in lake.list_tables()
        if name not in declared and lake.table(name).property(CODE) is not None
    ]


def check_droppable(workspace: Workspace, name: str) -> None:
    """Checks that the table may be dropped.

    Raises:
        CallError: the table does not exist, or no build made it: it is a topic's table or a training set.
        Refused: a declared table, a model or a publication reads it.
    """
    project, lake = workspace.project, workspace.lake
    droppable = [
        *find_undeclared_tables(project, lake),
        *(table_name for table_name in project.tables if lake.table_exists(table_name)),
    ]
    if name not in droppable:
        raise CallError(
            f"table {name!r} is not a table that a build made",
            remedy=f"Choose one: {', '.join(sorted(droppable))}." if droppable else "No table can be dropped.",
        )
    readers = [
        f"table {table.name}"
        for table in project.tables.values()
        if any(isinstance(source, Table) and source.name == name for source in project.inputs(table))
    ]
    readers += [
        f"model {model}" for model, code in BuildContext(workspace).code.models.items() if name in code.tables
    ]
    readers += [f"an audit of {table.name}" for table in project.tables.values() if name in table.references]
    readers += [
        f"publication {publication.name}"
        for publication in project.publications.values()
        if any(table.name == name for table in publication.tables)
    ]
    if readers:
        raise Refused(
            f"table {name!r} is read by {', '.join(readers)}",
            remedy="Let them read another table, or give the table another name; then drop this one.",
        )


def drop_table(workspace: Workspace, name: str) -> None:
    """Deletes the table. If it is killed at any point, call it again.

    Raises:
        CallError, Refused: like `check_droppable`.
        Unavailable: a build runs on the project, or the catalog cannot be reached.
    """
    settings = workspace.settings
    with hold_build_lock(settings):
        check_droppable(workspace, name)
        Pointers(settings.root).remove(Pointers.path("tables", name))
        remove_stage(settings.root, TableStage.name_of(name))
        hide_table(workspace.lake, name)
        unpin_inputs(workspace.lake, name)
        if workspace.lake.table_exists(failing_table(name)):
            workspace.lake.drop_table(failing_table(name))
        workspace.lake.drop_table(name)
