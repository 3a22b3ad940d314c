"""check tables: the audits of each table, what came of them last, and the rows that failed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from headrace.flows.build.context import BuildContext
from headrace.kernel.errors import CallError
from headrace.kernel.time import from_micros
from headrace.tables.audits.report import AuditResult, failing_table, read_report
from headrace.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

    from headrace.flows.build.project_code import ProjectCode
    from headrace.lake import Lake

__all__ = ["TableCheck", "check_table", "check_tables", "read_failing_rows"]

_SHOWN = 10


class TableCheck(msgspec.Struct, frozen=True):
    """The audits of a table.

    Attributes:
        table: the table.
        state: whether its last audit let it be published, or refused it; `new`: it was never audited.
        is_outdated: whether the next build may audit it otherwise, because the project's code was edited since.
        at: when the last audit was.
        results: what came of each rule.
        kept: how many failing rows are kept in the table `headrace_failing_TABLE`.
        examples: some of these rows, with `_rule`, `_severity`, `_partition` and `_audited_at`.
    """

    table: str
    state: Literal["published", "refused", "new"]
    is_outdated: bool
    at: datetime | None
    results: list[AuditResult]
    kept: int
    examples: list[dict[str, Any]]

    @property
    def fails(self) -> bool:
        """Whether a rule of severity `error` does not hold."""
        return any(result.stops for result in self.results)


def check_tables(workspace: Workspace, names: Sequence[str] = (), *, shown: int = _SHOWN) -> list[TableCheck]:
    """The audits of the project's tables. How fresh a table is, is looked up now; the other results are those
    of the last build.

    Args:
        workspace: the project to work on.
        names: the tables; by default every one that has something to audit.
        shown: how many failing rows of a table are read.

    Raises:
        CallError: a table does not exist, or declares nothing to audit.
        ProjectError: an audit does not fit its table.
    """
    from headrace.tables.audits.run import check_freshness_now, is_audited

    project, lake, recorded = workspace.project, workspace.lake, BuildContext(workspace).recorded_code
    tables = [project.table(name) for name in names] or [t for t in project.tables.values() if is_audited(t)]
    unaudited = [table for table in tables if not is_audited(table)]
    if unaudited:
        raise CallError(
            f"table {unaudited[0].name!r} has nothing to audit",
            where=str(unaudited[0].place),
            remedy="Declare @table(schema=...) or audits=[...].",
        )
    checks = []
    for table in tables:
        check = _check_table(lake, recorded, table.name, shown)
        fresh = {result.rule: result for result in check_freshness_now(lake, table)}
        results = [fresh.get(result.rule, result) for result in check.results]
        checks.append(msgspec.structs.replace(check, results=results))
    return checks


def check_table(workspace: Workspace, name: str, *, shown: int = _SHOWN) -> TableCheck:
    """What came of the last audit of a table. The project's modules are not loaded."""
    return _check_table(workspace.lake, BuildContext(workspace).recorded_code, name, shown)


def _check_table(lake: Lake, recorded: ProjectCode | None, name: str, shown: int) -> TableCheck:
    """As `check_table`.

    Args:
        lake: the lake.
        recorded: the project's code as the last build recorded it; None: it was edited since.
        name: the table.
        shown: how many failing rows are read.
    """
    report = read_report(lake, name)
    if report is None:
        return TableCheck(name, "new", False, None, [], 0, [])
    is_outdated = recorded is None or recorded.audits_digest(name) != report.code
    examples = [] if not report.kept else read_failing_rows(lake, name).head(shown).collect().to_dicts()
    state: Literal["published", "refused"] = "refused" if report.stops else "published"
    return TableCheck(name, state, is_outdated, from_micros(report.at), report.results, report.kept, examples)


def read_failing_rows(lake: Lake, name: str) -> pl.LazyFrame:
    """The failing rows that are kept of a table.

    Raises:
        CallError: none was ever kept.
    """
    if not lake.table_exists(failing_table(name)):
        raise CallError(f"no row of table {name!r} has failed an audit")
    return lake.table(failing_table(name)).scan()
