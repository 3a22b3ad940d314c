"""The stage graph: the stages of a project, what each depends on, and the text of dvc.yaml."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from headrace.config.settings import Settings
from headrace.flows.build.pointers import CODE
from headrace.flows.build.project_code import ProjectCode
from headrace.flows.build.stage import Stage
from headrace.flows.build.stages import KINDS
from headrace.kernel.errors import CallError

__all__ = ["StageGraph"]


class StageGraph:
    """The stages of a project, each after those it depends on.

    Attributes:
        stages: in the order of the build.
    """

    def __init__(self, stages: Iterable[Stage]) -> None:
        self.stages = tuple(stages)
        self._by_name = {stage.name: stage for stage in self.stages}
        self._by_output = {stage.out: stage for stage in self.stages}

    @classmethod
    def of_project(cls, code: ProjectCode, settings: Settings) -> StageGraph:
        """The stages that the project's declarations need."""
        return cls(stage for kind in KINDS for stage in kind.of_project(code, settings))

    def stage(self, name: str) -> Stage:
        """The stage of this name.

        Raises:
            CallError: the graph has no such stage.
        """
        if name not in self._by_name:
            raise CallError(f"the build has no stage {name!r}", remedy=f"Stages: {', '.join(self._by_name)}.")
        return self._by_name[name]

    def needs_of(self, stage: Stage) -> tuple[str, ...]:
        """The names of the stages that this one depends on directly."""
        paths = [*stage.deps, *([CODE] if stage.params else [])]
        return tuple(self._by_output[path].name for path in paths if path in self._by_output)

    def select(self, targets: Sequence[str]) -> list[Stage]:
        """The stages of the targets and those that they need, in order. Without targets: all.

        Args:
            targets: stages, tables, or models; a model means its stages up to the release.

        Raises:
            CallError: a target is not a stage, table or model.
        """
        if not targets:
            return list(self.stages)
        selected: set[str] = set()
        pending = [self._find_target(target) for target in targets]
        while pending:
            stage = pending.pop()
            if stage.name not in selected:
                selected.add(stage.name)
                pending += [self._by_name[name] for name in (*self.needs_of(stage), *stage.companions)]
        return [stage for stage in self.stages if stage.name in selected]

    def dependents_of(self, paths: Iterable[str]) -> set[str]:
        """The names of the stages that depend on these files, directly or through other stages."""
        changed = set(paths)
        names = set()
        for stage in self.stages:
            if changed.intersection(stage.deps):
                changed.add(stage.out)
                names.add(stage.name)
        return names

    def makers_of(self, paths: Iterable[str]) -> set[str]:
        """The names of the stages that write these files."""
        return {self._by_output[path].name for path in paths if path in self._by_output}

    def dvc_yaml(self) -> str:
        """The graph as DVC reads it."""
        lines = ["stages:"]
        for stage in self.stages:
            lines += [f"  {stage.name}:", f"    cmd: headrace run-stage {stage.name}"]
            if stage.deps:
                lines += ["    deps:", *(f"    - {_quote(path)}" for path in stage.deps)]
            files = dict.fromkeys(parameter.file for parameter in stage.params)
            lines += ["    params:"] if files else []
            for file in files:
                keys = [parameter.key for parameter in stage.params if parameter.file == file]
                # Without entries, DVC takes the whole file.
                lines += [f"    - {file}:", *(f"      - {key}" for key in keys if "" not in keys)]
            lines += ["    outs:", f"    - {stage.out}:", "        cache: false", "        persist: true"]
            lines += [f"    - {path}" for path in stage.files]
            if stage.metrics:
                lines += ["    metrics:"]
                lines += [f"    - {path}:\n        cache: false" for path in stage.metrics]
            lines += ["    plots:"] if stage.plots else []
            for plot in stage.plots:
                lines += [f"    - {plot.path}:", f"        template: {plot.template}"]
                lines += [f"        title: {json.dumps(plot.title)}"]
                lines += [f"        {axis}: {name}" for axis, name in (("x", plot.x), ("y", plot.y))]
        return "\n".join(lines) + "\n"

    def _find_target(self, target: str) -> Stage:
        if target in self._by_name:
            return self._by_name[target]
        for stage in self.stages:
            if stage.is_target and stage.subject == target:
                return stage
        subjects = sorted({stage.subject for stage in self.stages if stage.subject})
        raise CallError(
            f"{target!r} is not a table, model or stage of this project",
            remedy=f"Tables and models: {', '.join(subjects)}. Stages: {', '.join(self._by_name)}.",
        )


def _quote(path: str) -> str:
    """The path as YAML text, for DVC, which takes `${` for a variable of its own."""
    return path if re.fullmatch(r"[\w./-]+", path) else json.dumps(path.replace("${", "\\${"))
