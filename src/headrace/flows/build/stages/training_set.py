"""`training_set-MODEL`: joins the labels with the features, point-in-time, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import msgspec

from headrace.config.settings import Settings
from headrace.flows.build.pointers import FEATURES, Pointers
from headrace.flows.build.project_code import ProjectCode
from headrace.flows.build.reasons import LOCK, Parameter
from headrace.flows.build.stage import LakeStage, StageResult
from headrace.kernel.counts import plural

if TYPE_CHECKING:
    from headrace.flows.build.context import BuildContext
    from headrace.tables.twin import TwinSnapshot

__all__ = ["TrainingSetStage"]


class TrainingSetStage(LakeStage):
    """Depends on the chosen inputs and the plan."""

    kind = "training_set"

    @classmethod
    def of_project(cls, code: ProjectCode, settings: Settings) -> list[Self]:
        return [
            cls(
                subject=name,
                deps=(Pointers.path("inputs", name), FEATURES),
                params=(
                    LOCK,
                    Parameter(f"models.{name}.plan", "code", f"features of {name}"),
                    Parameter(f"models.{name}.training_set", "parameter"),
                ),
                out=Pointers.path(cls.kind, name),
            )
            for name in code.models
        ]

    def run(self, context: BuildContext) -> StageResult:
        return self._make(context, None)

    def find_inputs(self, context: BuildContext) -> dict[str, int]:
        return context.inputs(self.subject)

    def remake(self, context: BuildContext, twin: TwinSnapshot) -> StageResult:
        return self._make(context, twin)

    def _make(self, context: BuildContext, twin: TwinSnapshot | None) -> StageResult:
        from headrace.training.training_set import make

        project, plan = context.project(), context.plan(self.subject)
        model = project.model(self.subject)
        rows = make(project, context.lake, model, plan, inputs=context.inputs(self.subject), twin=twin)
        context.pointers.write(self.out, msgspec.to_builtins(rows))
        unknown = f"; {plural(rows.refused, 'label', 'is', 'are')} not known yet" if rows.refused else ""
        count = (
            "1 row that a function fails on"
            if rows.failed == 1
            else f"{plural(rows.failed, 'row')} that functions fail on"
        )
        failed = f"; left out {count}: {rows.failures[0]}" if rows.failed else ""
        keyless = "".join(
            f"; {key} is null in {plural(count, 'row')}, which serving would refuse"
            for key, count in rows.keyless.items()
        )
        return StageResult(
            f"labels with {plural(len(plan.features), 'feature')}{unknown}{failed}{keyless}", rows.rows
        )
