"""A stage of the build: what it depends on, what it makes, and why it would run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import attrs
from msgspec import Struct

from headrace.flows.build.plots import PlotFile
from headrace.flows.build.reasons import Parameter, StaleReason

if TYPE_CHECKING:
    from headrace.config.settings import Settings
    from headrace.flows.build.context import BuildContext
    from headrace.flows.build.preview import Preview
    from headrace.flows.build.project_code import ProjectCode
    from headrace.tables.twin import TwinSnapshot

__all__ = ["LakeStage", "Reporting", "Stage", "StageResult"]

Reporting = Literal["always", "on_change", "never"]
"""When a build reports that a stage has run: always, if its pointer has changed, or never."""


class StageResult(Struct, frozen=True):
    """What a stage did, in words, and how many rows its table has; None if it makes no table."""

    what: str
    rows: int | None = None


@attrs.frozen(kw_only=True)
class Stage(ABC):
    """One stage of the build. Each kind is a subclass in a separate file, listed in `stages`.

    Attributes:
        kind: the kind; with the subject it is the stage's name in dvc.yaml.
        is_target: whether `headrace build SUBJECT` means this stage.
        reporting: when a build reports it.
        is_isolated: whether its failure stops only the stages that depend on it; else the build ends.
        drift: what to report if the stage's data outside of git belong to another commit; "": it has none.
        subject: the table or model that the stage is about, or "".
        deps: files it depends on, relative to the project.
        params: entries of pointers/code.json it depends on.
        out: the pointer it writes.
        files: its other outputs, which DVC keeps in its cache, plots aside.
        metrics: files of metrics, which git keeps.
        plots: plots, which DVC keeps.
        companions: names of stages that are built with it, although it does not depend on them.
    """

    kind: ClassVar[str]
    is_target: ClassVar[bool] = False
    reporting: ClassVar[Reporting] = "always"
    is_isolated: ClassVar[bool] = False
    drift: ClassVar[str] = ""

    out: str
    subject: str = ""
    deps: tuple[str, ...] = ()
    params: tuple[Parameter, ...] = ()
    files: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    plots: tuple[PlotFile, ...] = ()
    companions: tuple[str, ...] = ()

    @classmethod
    @abstractmethod
    def of_project(cls, code: ProjectCode, settings: Settings) -> list[Self]:
        """Every stage of this kind that the project needs, each after those of this kind it depends on."""

    @abstractmethod
    def run(self, context: BuildContext) -> StageResult:
        """Does the stage's work, and writes its pointer last.

        Raises:
            HeadraceError: the work failed.
        """

    @classmethod
    def name_of(cls, subject: str) -> str:
        """The name in dvc.yaml of the stage of a subject: KIND-SUBJECT, or KIND without a subject."""
        return f"{cls.kind}-{subject}" if subject else cls.kind

    @property
    def kept(self) -> tuple[str, ...]:
        """The outputs that DVC keeps in its cache."""
        return (*self.files, *(plot.path for plot in self.plots))

    @property
    def name(self) -> str:
        """The name in dvc.yaml."""
        return self.name_of(self.subject)

    def restore(self, context: BuildContext) -> StageResult:
        """Makes the stage's data outside of git agree with its pointer, if nothing else has changed."""
        return self.run(context)

    def is_due(self, context: BuildContext) -> bool:
        """Whether the stage must run for a reason that DVC does not see, such as the time."""
        return False

    def is_lost(self, context: BuildContext) -> bool:
        """Whether another program has changed or removed the data that the pointer names."""
        return False

    def stale_reasons(self, preview: Preview) -> list[StaleReason]:
        """Why the next build would run the stage; empty if it is up to date."""
        return preview.reasons_of(self)

    def snapshots(self, pointer: Mapping[str, Any]) -> dict[str, int]:
        """Table → the snapshot that the pointer names. Without it in the lake the pointer is void."""
        return {}


class LakeStage(Stage):
    """A stage that makes a table of the lake. Its pointer names the table and the snapshot."""

    def snapshots(self, pointer: Mapping[str, Any]) -> dict[str, int]:
        return {str(pointer["table"]): int(pointer["snapshot"])}

    @abstractmethod
    def find_inputs(self, context: BuildContext) -> dict[str, int]:
        """Table → the snapshot that the table is made from.

        Raises:
            ProjectError: a table has no pointer yet.
        """

    @abstractmethod
    def remake(self, context: BuildContext, twin: TwinSnapshot) -> StageResult:
        """Makes the table, which this lake lacks; with the snapshot of the pointer if the rows are the same."""

    def restore(self, context: BuildContext) -> StageResult:
        pointer = context.pointers.read(self.out)
        assert pointer is not None
        snapshot = context.lake.table(pointer["table"]).rollback_to_snapshot(int(pointer["snapshot"]))
        return StageResult(f"restored the rows of {snapshot.at:%Y-%m-%d %H:%M:%S} UTC", snapshot.rows)
