"""`source-NAME`: records which files of a source, or which commit, the tables are made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from headrace.config.settings import Settings
from headrace.flows.build.pointers import Pointers
from headrace.flows.build.project_code import ProjectCode
from headrace.flows.build.reasons import Parameter, user_parameters
from headrace.flows.build.sources import read_source_state, sources_read
from headrace.flows.build.stage import Stage, StageResult

if TYPE_CHECKING:
    from headrace.flows.build.context import BuildContext

__all__ = ["SourceStage"]


class SourceStage(Stage):
    """Depends on the source's declaration and on its files, if these are in the project's folder."""

    kind = "source"
    reporting = "never"
    is_isolated = True

    @classmethod
    def of_project(cls, code: ProjectCode, settings: Settings) -> list[Self]:
        return [
            cls(
                subject=name,
                deps=(source.path,) if source.is_tracked else (),
                params=(
                    Parameter(f"sources.{name}", "input"),
                    *user_parameters(code.params_of(f"sources.{name}")),
                ),
                out=Pointers.path("sources", name),
            )
            for name, source in sources_read(code).items()
        ]

    def run(self, context: BuildContext) -> StageResult:
        """Writes the pointer.

        Raises:
            ProjectError: the source has no files, or its revision does not exist.
        """
        state = read_source_state(context.workspace, self.subject, context.code.sources[self.subject])
        if state.problem is not None:
            raise state.problem
        context.pointers.write(self.out, state.pointer)
        return StageResult(f"recorded the files of source {self.subject}")

    def is_due(self, context: BuildContext) -> bool:
        """Whether the tag of its revision has moved, or its objects in a store have changed."""
        source = context.code.sources[self.subject]
        if source.is_tracked:
            return False
        state = read_source_state(context.workspace, self.subject, source)
        return context.pointers.read(self.out) != state.pointer
