"""`release-MODEL`: registers the version, and makes it champion if the gate passed or is overridden."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from headrace.config.settings import Settings
from headrace.flows.build.pointers import Pointers
from headrace.flows.build.project_code import ProjectCode
from headrace.flows.build.stage import Stage, StageResult
from headrace.flows.build.stages.online import OnlineStage
from headrace.flows.build.stages.train import bundle_folder

if TYPE_CHECKING:
    from headrace.flows.build.context import BuildContext

__all__ = ["ReleaseStage"]


class ReleaseStage(Stage):
    """Depends on the training. `online` is built with it, because a released model is served."""

    kind = "release"
    is_target = True

    @classmethod
    def of_project(cls, code: ProjectCode, settings: Settings) -> list[Self]:
        return [
            cls(
                subject=name,
                deps=(Pointers.path("train", name),),
                out=Pointers.path(cls.kind, name),
                companions=(OnlineStage.kind,),
            )
            for name in code.models
        ]

    def is_lost(self, context: BuildContext) -> bool:
        """Whether the model was never released from this state, as after `git clone`."""
        return (
            not context.settings.place("release", self.subject).is_dir()
            and context.champion(self.subject) is None
        )

    def run(self, context: BuildContext) -> StageResult:
        """Registers the version and releases it.

        Raises:
            Refused: the gate refuses the version; the error lists the rules that it breaks.
        """
        from headrace.flows.build.registration import release_version

        folder = context.settings.root / bundle_folder(self.subject)
        release = release_version(context, self.subject, folder, stage=self.name)
        context.pointers.write(self.out, release.pointer)
        return StageResult(f"version {release.version} is champion: {release.how}")
