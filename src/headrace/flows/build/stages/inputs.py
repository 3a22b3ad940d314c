"""`inputs-MODEL`: chooses the snapshots of its tables that a model is trained on (see refresh)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from headrace.config.settings import Settings
from headrace.flows.build.pointers import Pointers
from headrace.flows.build.project_code import ProjectCode
from headrace.flows.build.reasons import Parameter, StaleReason
from headrace.flows.build.stage import Stage, StageResult
from headrace.kernel.errors import ProjectError
from headrace.kernel.time import now

if TYPE_CHECKING:
    from headrace.flows.build.context import BuildContext
    from headrace.flows.build.preview import Preview

__all__ = ["InputsStage"]


class InputsStage(Stage):
    """Depends on the tables' pointers. Newer tables change its own pointer only when the refresh is due."""

    kind = "inputs"
    reporting = "on_change"

    @classmethod
    def of_project(cls, code: ProjectCode, settings: Settings) -> list[Self]:
        return [
            cls(
                subject=name,
                deps=tuple(code.pointer_of(table) for table in model.tables),
                params=(
                    Parameter(f"models.{name}.plan", "code", f"features of {name}"),
                    Parameter(f"models.{name}.training_set", "parameter"),
                ),
                out=Pointers.path(cls.kind, name),
            )
            for name, model in code.models.items()
        ]

    def run(self, context: BuildContext) -> StageResult:
        inputs = context.newest_inputs(self.subject)
        reason = context.refresh_reason(self.subject, inputs)
        if reason is None:
            pointer = context.pointers.read(self.out)
            is_newest = pointer is not None and pointer["snapshots"] == inputs
            return StageResult("no newer inputs" if is_newest else "newer inputs wait for the refresh")
        context.pointers.write(
            self.out,
            {
                "snapshots": inputs,
                "taken": now().isoformat(),
                "code": context.code.training_set_digest(self.subject),
            },
        )
        return StageResult(f"took the newest inputs: {reason}")

    def is_due(self, context: BuildContext) -> bool:
        try:
            return context.refresh_reason(self.subject, context.newest_inputs(self.subject)) is not None
        except ProjectError:  # a table has never been built
            return False

    def stale_reasons(self, preview: Preview) -> list[StaleReason]:
        try:
            inputs = preview.context.newest_inputs(self.subject)
        except ProjectError:  # a table has never been built
            return [StaleReason("input", "it was never trained")]
        if preview.is_any_stale(self.deps):
            inputs = {**inputs, "?": 0}  # a table that will be made again will have a new snapshot
        reason = preview.context.refresh_reason(self.subject, inputs)
        return [] if reason is None else [StaleReason("input", reason)]

    def snapshots(self, pointer: Mapping[str, Any]) -> dict[str, int]:
        return {table: int(snapshot) for table, snapshot in pointer["snapshots"].items()}
