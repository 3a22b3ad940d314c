"""A stage of the build: what it depends on, what it makes, and why it would run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from headrace.flows.build.reasons import Parameter, StaleReason

if TYPE_CHECKING:
    from headrace.config.settings import Settings
    from headrace.flows.build.context import BuildContext
    from headrace.flows.build.preview import Preview
    from headrace.flows.build.project_code import ProjectCode

__all__ = ["LakeStage", "Reporting", "Stage", "StageResult"]

Reporting = Literal["always", "on_change", "never"]
"""When a build reports that a stage has run: always, if its pointer has changed, or never."""


@dataclass(frozen=True)
class StageResult:
    """What a stage did, in words, and how many rows its table has, if it makes one."""

    what: str
    rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """One stage of the build. Each kind is a subclass in a file of its own, listed in `stages`.

    Attributes:
        kind: the kind; with the subject it is the stage's name in dvc.yaml.
        is_target: whether `headrace build SUBJECT` means this stage.
        reporting: when a build reports it.
        drift: for a stage that keeps something outside of git: what to say when that belongs to another commit.
        subject: the table or model that the stage is about, or "".
        deps: files it depends on, relative to the project.
        params: entries of pointers/code.json it depends on.
        out: the pointer it writes.
        files: what else it makes, kept by DVC.
        companions: names of stages that are built together with it, though it does not depend on them.
    """

    kind: ClassVar[str]
    is_target: ClassVar[bool] = False
    reporting: ClassVar[Reporting] = "always"
    drift: ClassVar[str] = ""

    out: str
    subject: str = ""
    deps: tuple[str, ...] = ()
    params: tuple[Parameter, ...] = ()
    files: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()

    @classmethod
    @abstractmethod
    def of_project(cls, code: ProjectCode, settings: Settings) -> list[Self]:
        """Every stage of this kind that the project needs, each after those of this kind it depends on."""

    @abstractmethod
    def run(self, context: BuildContext) -> StageResult:
        """Does the work, and writes the pointer last.

        Raises:
            HeadraceError: as the room that does it.
        """

    @classmethod
    def name_of(cls, subject: str) -> str:
        """The name in dvc.yaml of the stage about a subject: the kind, and after a hyphen the subject."""
        return f"{cls.kind}-{subject}" if subject else cls.kind

    @property
    def name(self) -> str:
        """The name in dvc.yaml."""
        return self.name_of(self.subject)

    def restore(self, context: BuildContext) -> StageResult:
        """Makes what the stage keeps outside of git agree with its pointer, when nothing else has changed."""
        return self.run(context)

    def is_due(self, context: BuildContext) -> bool:
        """Whether it must run for a reason that DVC does not see, such as the clock."""
        return False

    def is_lost(self, context: BuildContext) -> bool:
        """Whether another program has changed or removed what the pointer refers to."""
        return False

    def stale_reasons(self, preview: Preview) -> list[StaleReason]:
        """Why the next build would run it; empty where it would not."""
        return preview.reasons_of(self)

    def snapshots(self, pointer: Mapping[str, Any]) -> dict[str, int]:
        """Table → snapshot that the pointer (as read) refers to: without it in the lake the pointer is void."""
        return {}


class LakeStage(Stage):
    """A stage that makes a table of the lake. Its pointer names the table and the snapshot."""

    def snapshots(self, pointer: Mapping[str, Any]) -> dict[str, int]:
        return {str(pointer["table"]): int(pointer["snapshot"])}

    def restore(self, context: BuildContext) -> StageResult:
        pointer = context.pointers.read(self.out)
        assert pointer is not None
        snapshot = context.lake.table(pointer["table"]).rollback_to_snapshot(int(pointer["snapshot"]))
        return StageResult(f"back at the rows of {snapshot.at:%Y-%m-%d %H:%M:%S} UTC", snapshot.rows)
