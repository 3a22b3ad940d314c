"""`table-NAME`: makes the stale days of a table, audits them and publishes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Self

from headrace.config.settings import Settings
from headrace.flows.build.project_code import ProjectCode
from headrace.flows.build.reasons import LOCK, Parameter, StaleReason, user_parameters
from headrace.flows.build.report import StageReport
from headrace.flows.build.stage import LakeStage, StageResult
from headrace.kernel.counts import plural
from headrace.kernel.properties import PENDING

if TYPE_CHECKING:
    from headrace.declare.table import Table
    from headrace.flows.build.context import BuildContext
    from headrace.flows.build.preview import Preview
    from headrace.tables.build import PartProgress
    from headrace.tables.twin import TwinSnapshot

__all__ = ["TableStage"]


class TableStage(LakeStage):
    """Depends on the table's code and audits, the contracts it reads, and the pointers of what both read."""

    kind = "table"
    is_target = True
    is_isolated = True

    @classmethod
    def of_project(cls, code: ProjectCode, settings: Settings) -> list[Self]:
        return [cls._of(code, table) for table in code.tables]

    @classmethod
    def _of(cls, code: ProjectCode, table: str) -> Self:
        params = user_parameters(code.params_of(f"tables.{table}"))
        contracts = [Parameter(f"contracts.{name}", "contract") for name in code.contracts_of(table)]
        audits = [Parameter(f"audits.{table}", "code")] if table in code.audits else []
        renames = [Parameter(f"renames.{table}", "code")] if table in code.renames else []
        referenced = (code.pointer_of(name) for name in code.references.get(table, ()))
        return cls(
            subject=table,
            deps=tuple(dict.fromkeys([*(read.pointer for read in code.reads[table]), *referenced])),
            params=(LOCK, Parameter(f"tables.{table}", "code"), *audits, *renames, *contracts, *params),
            out=code.pointer_of(table),
        )

    def run(self, context: BuildContext) -> StageResult:
        return self._run_query(context) if self.subject in context.code.queries else self._make(context, None)

    def find_inputs(self, context: BuildContext) -> dict[str, int]:
        reads = [read for read in context.code.reads[self.subject] if read.kind != "sources"]
        return {read.name: context.snapshot(read.name) for read in reads}

    def remake(self, context: BuildContext, twin: TwinSnapshot) -> StageResult:
        return self._make(context, twin)

    def _make(self, context: BuildContext, twin: TwinSnapshot | None) -> StageResult:
        from headrace.tables.build import build_table

        context.fetch_revisions(self.subject)
        project = context.project(features=False)
        table = project.table(self.subject)

        def report(progress: PartProgress) -> None:
            count = _count(table, progress.total)
            what = (
                f"{progress.done} of {count}" if progress.done else f"will make {count}: {progress.partitions}"
            )
            if progress.total:
                context.progress(StageReport(self.name, what))

        built = build_table(
            project,
            context.lake,
            table,
            code=context.code.table_digest(self.subject),
            audits=context.code.audits_digest(self.subject),
            at={**self._find_references(context), **self.find_inputs(context)},
            only=context.only.get(self.subject),
            twin=twin,
            progress=report,
        )
        digest = {} if built.digest is None else {"digest": built.digest}
        context.pointers.write(
            self.out, {"table": self.subject, "snapshot": built.snapshot, "rows": built.rows, **digest}
        )
        warnings = "".join(f"; the audit warns: {warning}" for warning in built.warnings)
        if built.skipped:
            return StageResult(f"was up to date{warnings}", built.rows)
        if built.partitions == []:
            return StageResult(f"{'; '.join(built.because)}{warnings}", built.rows)
        count = "all of it" if built.partitions is None else _count(table, len(built.partitions))
        left_out = "" if built.left_out is None else f"; {built.left_out}"
        return StageResult(f"made {count}: {'; '.join(built.because)}{left_out}{warnings}", built.rows)

    def is_due(self, context: BuildContext) -> bool:
        """Whether it was asked for, a build of a range has left partitions out, or a query makes the table, as
        only its database knows whether rows have changed."""
        is_query = self.subject in context.code.queries
        return is_query or self.subject in context.only or bool(self.count_pending(context))

    def stale_reasons(self, preview: Preview) -> list[StaleReason]:
        reasons, context = super().stale_reasons(preview), preview.context
        only, pending = context.only.get(self.subject), self.count_pending(context)
        if only is not None:
            what = "all of it" if only.is_whole else f"{only.first} to {only.last}"
            reasons.append(StaleReason("state", f"{what} was asked for"))
        elif pending:
            count = plural(pending, "partition")
            reasons.append(StaleReason("state", f"a build of a range left out {count}"))
        return reasons

    def count_pending(self, context: BuildContext) -> int:
        """How many stale partitions a build of a range has left out."""
        lake = context.lake
        if not lake.table_exists(self.subject):
            return 0
        return len(json.loads(lake.table(self.subject).property(PENDING) or "[]"))

    def _find_references(self, context: BuildContext) -> dict[str, int]:
        """Table that the audits read → its snapshot."""
        return {name: context.snapshot(name) for name in context.code.references.get(self.subject, ())}

    def _run_query(self, context: BuildContext) -> StageResult:
        from headrace.tables.queries import build_query

        project = context.project(features=False)
        built = build_query(
            project,
            context.lake,
            project.table(self.subject),
            code=context.code.table_digest(self.subject),
            audits=context.code.audits_digest(self.subject),
            at=self._find_references(context),
        )
        pointer = {"table": self.subject, "snapshot": built.snapshot, "rows": built.rows}
        context.pointers.write(self.out, pointer)
        warnings = "".join(f"; the audit warns: {warning}" for warning in built.warnings)
        return StageResult(f"{built.what}{warnings}", built.rows)

    def restore(self, context: BuildContext) -> StageResult:
        """As any table; the table of a query is read anew, because its database has moved on."""
        return self.run(context) if self.subject in context.code.queries else super().restore(context)


def _count(table: Table, partitions: int) -> str:
    partitioning = table.partition_by
    kind = "part" if partitioning is None or not partitioning.is_time else partitioning.grain
    return f"{partitions:,} {kind}{'s' * (partitions != 1)}"
