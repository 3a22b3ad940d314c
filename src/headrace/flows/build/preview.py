"""Plans a build: what it would run, and why, for `build --dry-run` and `status`. Writes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from headrace.code.source_files import PARAMS_FILE
from headrace.declare.params import find_param, read_params
from headrace.flows.build.context import BuildContext
from headrace.flows.build.drift import find_drift
from headrace.flows.build.dvc_lock import StageRecord, read_lock
from headrace.flows.build.pointers import CODE, pointer_text
from headrace.flows.build.reasons import Parameter, StaleReason
from headrace.flows.build.sources import find_sources, raise_first_problem
from headrace.flows.build.stage import Stage
from headrace.tables.range import BuildRange
from headrace.workspace import Workspace

__all__ = ["PlannedStage", "Preview", "plan_build"]


class PlannedStage(Struct, frozen=True):
    """A stage, and the reasons why a build would run it; without reasons it is up to date."""

    stage: Stage
    reasons: tuple[StaleReason, ...]


def plan_build(
    workspace: Workspace, targets: Sequence[str] = (), *, only: BuildRange | None = None
) -> list[PlannedStage]:
    """The stages of the targets in order, with the reasons why each is stale.

    Stages that are never reported are left out.

    Raises:
        ProjectError: the project is wrong, or a source that the targets need has no files.
        CallError: a target does not exist.
        Unavailable: the catalog cannot be reached, or a topic that the targets need has no events yet.
    """
    context = BuildContext(workspace)
    context.only = context.choose_tables(targets, only)
    return Preview(context).plan(targets)


class Preview:
    """Goes through the stages in the order of a build, without running them.

    Attributes:
        context: the context of the build.
    """

    def __init__(self, context: BuildContext) -> None:
        self.context = context
        self._root = context.settings.root
        self._lock = read_lock(self._root)
        self._params = read_params(self._root)
        self._sources = find_sources(context.workspace, context.code)
        self._stale: dict[str, str] = {}  # pointer that will change → the stage that writes it

    def plan(self, targets: Sequence[str]) -> list[PlannedStage]:
        """See plan_build."""
        stages = self.context.graph.select(targets)
        raise_first_problem(self._sources, stages)
        drift = find_drift(self.context.workspace, self.context.graph.stages)
        planned = []
        for stage in stages:
            if stage.reporting == "never":
                continue
            reasons = self.check(stage)
            if not reasons and stage.name in drift:  # the build restores it and does not change its pointer
                reasons = [StaleReason("state", drift[stage.name])]
            planned.append(PlannedStage(stage, tuple(reasons)))
        return planned

    def check(self, stage: Stage) -> list[StaleReason]:
        """Why the stage is stale; empty if it is up to date. Stages must be checked in the order of a build."""
        reasons = stage.stale_reasons(self)
        if reasons:
            self._stale[stage.out] = stage.name
        return reasons

    def is_any_stale(self, paths: Iterable[str]) -> bool:
        """Whether a stage that would run writes one of these files."""
        return not self._stale.keys().isdisjoint(paths)

    def reasons_of(self, stage: Stage) -> list[StaleReason]:
        """Why DVC would run the stage: its parameters, dependencies and outputs, compared with dvc.lock."""
        recorded = self._lock.get(stage.name)
        if recorded is None:
            return [StaleReason("new", "it was never made")]
        reasons: list[StaleReason] = []
        for parameter in stage.params:
            reasons += parameter.reasons(self._value_in_lock(recorded, parameter), self._value_now(parameter))
        for path in stage.deps:
            reasons += self._dependency_reasons(path, recorded.files.get(path))
        if not reasons:
            reasons += [
                StaleReason("output", f"{path} was deleted or edited by hand")
                for path in (stage.out, *stage.metrics)
                if recorded.files.get(path) != _md5_of(self._root / path)
            ]
        reasons += [
            StaleReason("output", f"{path} does not exist")
            for path in stage.kept
            if not (self._root / path).exists()
        ]
        return reasons

    def _value_in_lock(self, stage: StageRecord, parameter: Parameter) -> Any:
        entries = stage.params.get(parameter.file, {})
        return entries.get(parameter.key) if parameter.key else entries

    def _value_now(self, parameter: Parameter) -> Any:
        if parameter.file == CODE:
            return self.context.code.parameter(parameter.key)
        return find_param(self._params, parameter.key, str(self._root / PARAMS_FILE))

    def _dependency_reasons(self, path: str, recorded: str | None) -> list[StaleReason]:
        if path in self._stale:
            return [StaleReason("upstream", f"{self._stale[path]} runs first")]
        if path in self._sources:
            source = self._sources[path]
            if recorded == _md5(pointer_text(source.pointer)):
                return []
            return [StaleReason("input", source.change)]
        return [] if recorded == _md5_of(self._root / path) else [StaleReason("input", f"{path} changed")]


def _md5(text: bytes) -> str:
    return hashlib.md5(text, usedforsecurity=False).hexdigest()  # as DVC does


def _md5_of(path: Path) -> str | None:
    return _md5(path.read_bytes()) if path.is_file() else None
