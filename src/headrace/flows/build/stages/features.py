"""`features`: applies the project's definitions to Feast's registry and compiles one plan per model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from headrace.config.settings import Settings
from headrace.flows.build.pointers import FEATURES, write_if_changed
from headrace.flows.build.project_code import ProjectCode
from headrace.flows.build.reasons import LOCK, Parameter, user_parameters
from headrace.flows.build.stage import Stage, StageResult

if TYPE_CHECKING:
    from headrace.flows.build.context import BuildContext

__all__ = ["FeaturesStage"]


class FeaturesStage(Stage):
    """Depends on the Feast objects, and on each model's plan, because it writes the plans."""

    kind = "features"
    drift = "Feast's registry holds the definitions of another commit"

    @classmethod
    def of_project(cls, code: ProjectCode, settings: Settings) -> list[Self]:
        if not code.models:
            return []
        plans = [Parameter(f"models.{name}.plan", "code", f"features of {name}") for name in code.models]
        params = (LOCK, Parameter("features", "code"), *plans, *user_parameters(code.params_of("features")))
        return [cls(params=params, out=FEATURES)]

    def run(self, context: BuildContext) -> StageResult:
        from headrace.features import feast
        from headrace.features.plan import LAYOUT, encode_plan

        project = context.project()
        feast.apply(project)
        digests = {}
        for name, model in project.models.items():
            plan = feast.compile(project, model)
            write_if_changed(context.plan_file(name), encode_plan(plan) + b"\n")
            digests[name] = plan.digest
        views = feast.stored_digests(project)
        context.pointers.write(self.out, {"plans": digests, "views": views, "layout": LAYOUT})
        return StageResult(f"applied to Feast; plans of {', '.join(digests)}")

    def is_lost(self, context: BuildContext) -> bool:
        """Whether one of Feast's own commands (apply, teardown) has changed the registry since, or this version
        of Headrace stores views under other digests than the pointer names."""
        from headrace.features.applied.registry import is_registry_as_applied
        from headrace.features.plan import LAYOUT

        recorded = context.pointers.read(self.out) or {}
        return recorded.get("layout") != LAYOUT or not is_registry_as_applied(context.settings)
