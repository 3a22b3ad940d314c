"""BuildContext: what the stages of one build share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import msgspec

from headrace.config.settings import Settings
from headrace.flows.build import refresh
from headrace.flows.build.fingerprints import fingerprint_project, is_current, source_digest
from headrace.flows.build.graph import StageGraph
from headrace.flows.build.pointers import CODE, Pointers
from headrace.flows.build.project_code import ProjectCode, read_project_code
from headrace.flows.build.report import Progress, silent
from headrace.flows.build.sources import locate_errors
from headrace.kernel.errors import CallError, ProjectError
from headrace.projects.project import Project
from headrace.tables.range import BuildRange
from headrace.workspace import Workspace

if TYPE_CHECKING:
    from headrace.features.plan import FeaturePlan
    from headrace.lake import Lake

__all__ = ["BuildContext"]


@attrs.define
class BuildContext:
    """What the stages of one build share. Each part is loaded when it is first needed.

    Attributes:
        workspace: the project that is built.
        override: the reason to release a version that the gate refuses, or None.
        by: who builds, for the record of a release.
        only: table → what to make of it, stale or not.
        progress: called as a table with partitions is made.
    """

    workspace: Workspace
    override: str | None = None
    by: str = "build"
    only: Mapping[str, BuildRange] = attrs.field(factory=dict)
    progress: Progress = silent
    _projects: dict[bool, Project] = attrs.field(factory=dict)

    @property
    def settings(self) -> Settings:
        """The project's settings."""
        return self.workspace.settings

    @cached_property
    def pointers(self) -> Pointers:
        """The project's pointers."""
        return Pointers(self.settings.root)

    @cached_property
    def source_digest(self) -> str:
        """The digest of the project's source files when this process first read them."""
        return source_digest(self.settings)

    @cached_property
    def code(self) -> ProjectCode:
        """The project's fingerprints: the recorded ones if nothing has changed since, else new ones."""
        return self.recorded_code or fingerprint_project(self.project(), self.settings, self.source_digest)

    @cached_property
    def recorded_code(self) -> ProjectCode | None:
        """The fingerprints that the last build recorded; None if something has changed since."""
        recorded = read_project_code(self.pointers)
        return recorded if recorded and is_current(recorded, self.settings, self.source_digest) else None

    @cached_property
    def graph(self) -> StageGraph:
        """The stages of the project as it is now."""
        return StageGraph.of_project(self.code, self.settings)

    @property
    def lake(self) -> Lake:
        """The lake."""
        return self.workspace.lake

    def project(self, *, features: bool = True) -> Project:
        """The project. Without features and models it loads 5 s faster.

        Raises:
            ProjectError: a file was edited since the fingerprints were taken, so the build would record its
                results under the wrong fingerprints.
        """
        if True in self._projects:
            return self._projects[True]
        if features not in self._projects:
            digest = self.source_digest  # before the modules are loaded
            if features:
                import headrace.features.feast  # noqa: F401  (faster before the project's modules)
            project = self.workspace.whole_project if features else self.workspace.project
            if source_digest(self.settings) != digest:
                raise ProjectError(
                    "the project's code was edited while the build was reading it",
                    where=str(self.settings.root / self.settings.project),
                    remedy="Run the build again: nothing was built from a half-finished edit.",
                )
            self._projects[features] = project
        return self._projects[features]

    def write_code(self) -> None:
        """Writes the fingerprints to pointers/code.json."""
        self.pointers.write(CODE, msgspec.to_builtins(self.code))

    def snapshot(self, table: str) -> int:
        """The snapshot in the table's pointer.

        Raises:
            ProjectError: the table has no pointer yet.
        """
        path = self.code.pointer_of(table)
        pointer = self.pointers.read(path)
        if pointer is None:
            raise ProjectError(
                f"table {table!r} has not been built yet", where=path, remedy="headrace build builds it."
            )
        return int(pointer["snapshot"])

    def fetch_revisions(self, table: str) -> None:
        """Fetches the data of the git revisions that the table reads, unless they are there already.

        Raises:
            ProjectError: a revision does not exist, or its data cannot be had.
        """
        for read in self.code.reads[table]:
            source = self.code.sources[read.name] if read.kind == "sources" else None
            if source is not None and source.revision:
                from headrace.flows.build.revisions import fetch_revision

                with locate_errors(self.workspace, read.name):
                    fetch_revision(self.settings, source.path, source.revision, source.describe(read.name))

    def choose_tables(self, targets: Sequence[str], only: BuildRange | None) -> dict[str, BuildRange]:
        """Table → what to make of it, for a build of a range or of whole tables.

        Raises:
            CallError: a range of days is not to be made of exactly one table.
        """
        if only is None:
            return {}
        names = [target.removeprefix("table-") for target in targets]
        tables = [name for name in names if name in self.code.tables]
        if not only.is_whole and (len(tables) != 1 or len(targets) != 1):
            raise CallError(
                "a range of days is made of one table",
                remedy="Name the table: headrace build TABLE --from 2026-11-01 --to 2026-11-30",
            )
        return dict.fromkeys(tables if targets else self.code.tables, only)

    def newest_inputs(self, model: str) -> dict[str, int]:
        """Table → the snapshot in its pointer, for each table that the model is made from.

        Raises:
            ProjectError: a table has no pointer yet.
        """
        return {table: self.snapshot(table) for table in self.code.models[model].tables}

    def inputs(self, model: str) -> dict[str, int]:
        """Table → the snapshot that the model's stage `inputs` chose."""
        pointer = self.pointers.read(Pointers.path("inputs", model))
        assert pointer is not None
        return {table: int(snapshot) for table, snapshot in pointer["snapshots"].items()}

    def refresh_reason(self, model: str, inputs: dict[str, int]) -> str | None:
        """Why the model takes these inputs now; None: it keeps its own (see refresh)."""
        return refresh.refresh_reason(
            self.pointers.read(Pointers.path("inputs", model)),
            inputs,
            self.code.training_set_digest(model),
            timedelta(seconds=self.code.models[model].refresh),
            is_trained=self.pointers.read(Pointers.path("train", model)) is not None,
        )

    def next_refreshes(self) -> dict[str, datetime]:
        """Model → when it will take the newer inputs that its refresh delays. Other models are left out.

        Raises:
            ProjectError: a table has no pointer yet.
        """
        moments = {}
        for name, model in self.code.models.items():
            pointer = self.pointers.read(Pointers.path("inputs", name))
            due = refresh.due_at(pointer, self.newest_inputs(name), timedelta(seconds=model.refresh))
            if due is not None:
                moments[name] = due
        return moments

    def plan_file(self, model: str) -> Path:
        """The file of the model's plan."""
        return self.settings.root / Pointers.path("plans", model)

    def plan(self, model: str) -> FeaturePlan:
        """The model's plan, as the stage `features` wrote it.

        Raises:
            FileNotFoundError: it has not been written yet.
            msgspec.DecodeError: the file is damaged.
        """
        from headrace.features.plan import decode_plan

        return decode_plan(self.plan_file(model).read_bytes())

    def champion(self, model: str) -> int | None:
        """The version that is champion now; None if there is none."""
        from headrace.serving import release

        current = release.find_current(self.workspace.log, model)
        return None if current is None else release.champion_version(current)
