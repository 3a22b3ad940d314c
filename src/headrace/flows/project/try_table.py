"""Tries a table: runs its function on a partition or a part of its input, without publishing."""

from __future__ import annotations

from time import perf_counter

from msgspec import Struct

from headrace.code.index import CodeIndex
from headrace.flows.build.fingerprints import check_declarations
from headrace.projects.loader import project_files
from headrace.tables.attempt import RowDifference, attempt_table, compare_rows
from headrace.tables.purity import find_impurities
from headrace.workspace import Workspace

__all__ = ["TableTrial", "try_table"]

_SHOWN = 10


class TableTrial(Struct, frozen=True):
    """What a trial of a table showed.

    Attributes:
        table: the table.
        partition: the partition; None: the table has none.
        read: input → how many rows of it were read.
        columns: column → its type.
        rows: how many rows the function made.
        sample: some of them.
        refusal: why the audit refuses them; None: it does not.
        difference: how they differ from what is published; None: nothing is, or only some input was read.
        impure: what the function reads beside its input, or how two runs differ; None: it was not checked.
        seconds: how long one run took.
    """

    table: str
    partition: str | None
    read: dict[str, int]
    columns: dict[str, str]
    rows: int
    sample: list[dict[str, object]]
    refusal: str | None
    difference: RowDifference | None
    impure: list[str] | None
    seconds: float


def try_table(
    workspace: Workspace,
    name: str,
    *,
    partition: str | None = None,
    limit: int | None = None,
    strict: bool = False,
) -> TableTrial:
    """Runs the table's function, and compares its rows with what is published.

    Args:
        workspace: the project to work on.
        name: the table.
        partition: the partition to run; default: the last one.
        limit: how many rows of each input are read at most.
        strict: whether to run the function again, also elsewhere, and to find what it reads beside its input.

    Raises:
        CallError: the table, the partition or an input does not exist.
        ProjectError: the function failed, or a module declares one name twice.
    """
    project, lake = workspace.project, workspace.lake
    files = project_files(workspace.settings)
    check_declarations(CodeIndex(files), files)
    table = project.table(name)
    start = perf_counter()
    attempt = attempt_table(project, lake, table, partition=partition, limit=limit)
    seconds = perf_counter() - start
    impure = find_impurities(project, attempt) if strict else None
    published = None if attempt.partial else attempt.published
    return TableTrial(
        table=name,
        partition=attempt.partition,
        read={source: rows.height for source, rows in attempt.inputs.items()},
        columns={column: str(dtype) for column, dtype in attempt.rows.schema.items()},
        rows=attempt.rows.height,
        sample=attempt.rows.head(_SHOWN).to_dicts(),
        refusal=attempt.refusal,
        difference=None if published is None else compare_rows(attempt.stored, published),
        impure=impure,
        seconds=seconds,
    )
