"""`table-NAME`: makes the stale days of a table, audits them and publishes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from headrace.config.settings import Settings
from headrace.flows.build.project_code import ProjectCode
from headrace.flows.build.reasons import LOCK, Parameter, user_parameters
from headrace.flows.build.stage import LakeStage, StageResult

if TYPE_CHECKING:
    from headrace.flows.build.context import BuildContext
    from headrace.tables.twin import TwinSnapshot

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
        return self._make(context, None)

    def find_inputs(self, context: BuildContext) -> dict[str, int]:
        reads = [read for read in context.code.reads[self.subject] if read.kind != "sources"]
        return {read.name: context.snapshot(read.name) for read in reads}

    def remake(self, context: BuildContext, twin: TwinSnapshot) -> StageResult:
        return self._make(context, twin)

    def _make(self, context: BuildContext, twin: TwinSnapshot | None) -> StageResult:
        from headrace.tables.build import build_table

        context.fetch_revisions(self.subject)
        project = context.project(features=False)
        built = build_table(
            project,
            context.lake,
            project.table(self.subject),
            code=context.code.table_digest(self.subject),
            at=self.find_inputs(context),
            twin=twin,
        )
        digest = {} if built.digest is None else {"digest": built.digest}
        context.pointers.write(
            self.out, {"table": self.subject, "snapshot": built.snapshot, "rows": built.rows, **digest}
        )
        if built.skipped:
            return StageResult("was up to date", built.rows)
        days = "all of it" if built.days is None else f"{len(built.days)} day{'s' * (len(built.days) != 1)}"
        left_out = "" if built.left_out is None else f"; {built.left_out}"
        return StageResult(f"made {days}: {'; '.join(built.because)}{left_out}", built.rows)
