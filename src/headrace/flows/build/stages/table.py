"""`table-NAME`: makes the stale days of a table, audits them and publishes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from headrace.config.settings import Settings
from headrace.flows.build.project_code import ProjectCode
from headrace.flows.build.reasons import LOCK, Parameter, user_parameters
from headrace.flows.build.stage import LakeStage, StageResult

if TYPE_CHECKING:
    from headrace.flows.build.context import BuildContext

__all__ = ["TableStage"]


class TableStage(LakeStage):
    """Depends on the table's code, the contracts it reads, and the pointers of what it reads."""

    kind = "table"
    is_target = True

    @classmethod
    def of_project(cls, code: ProjectCode, settings: Settings) -> list[Self]:
        return [cls._of(code, table) for table in code.tables]

    @classmethod
    def _of(cls, code: ProjectCode, table: str) -> Self:
        params = user_parameters(code.params_of(f"tables.{table}"))
        contracts = [Parameter(f"contracts.{name}", "contract") for name in code.contracts_of(table)]
        return cls(
            subject=table,
            deps=tuple(read.pointer for read in code.reads[table]),
            params=(LOCK, Parameter(f"tables.{table}", "code"), *contracts, *params),
            out=code.pointer_of(table),
        )

    def run(self, context: BuildContext) -> StageResult:
        if self.subject in context.code.queries:
            return self._run_query(context)
        from headrace.tables.build import build_table

        context.fetch_revisions(self.subject)
        reads = [read for read in context.code.reads[self.subject] if read.kind != "sources"]
        project = context.project(features=False)
        built = build_table(
            project,
            context.lake,
            project.table(self.subject),
            code=context.code.table_digest(self.subject),
            at={read.name: context.snapshot(read.name) for read in reads},
        )
        context.pointers.write(
            self.out, {"table": self.subject, "snapshot": built.snapshot, "rows": built.rows}
        )
        if built.skipped:
            return StageResult("was up to date", built.rows)
        days = "all of it" if built.days is None else f"{len(built.days)} day{'s' * (len(built.days) != 1)}"
        left_out = "" if built.left_out is None else f"; {built.left_out}"
        return StageResult(f"made {days}: {'; '.join(built.because)}{left_out}", built.rows)

    def _run_query(self, context: BuildContext) -> StageResult:
        from headrace.tables.queries import build_query

        project = context.project(features=False)
        code = context.code.table_digest(self.subject)
        built = build_query(project, context.lake, project.table(self.subject), code=code)
        pointer = {"table": self.subject, "snapshot": built.snapshot, "rows": built.rows}
        context.pointers.write(self.out, pointer)
        return StageResult(built.what, built.rows)

    def restore(self, context: BuildContext) -> StageResult:
        """As any table; the table of a query is read anew, because its database has moved on."""
        return self.run(context) if self.subject in context.code.queries else super().restore(context)

    def is_due(self, context: BuildContext) -> bool:
        """Whether a query makes the table: only the database knows whether its rows have changed."""
        return self.subject in context.code.queries
