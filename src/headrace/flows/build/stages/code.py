"""`code`: takes the fingerprints of the project's code, which the other stages depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from headrace.code.source_files import LOCK_FILES, PARAMS_FILE
from headrace.config.settings import FILE, Settings
from headrace.flows.build.pointers import CODE
from headrace.flows.build.project_code import ProjectCode, read_project_code
from headrace.flows.build.stage import Stage, StageResult

if TYPE_CHECKING:
    from headrace.flows.build.context import BuildContext

__all__ = ["CodeStage"]


class CodeStage(Stage):
    """Depends on the package, headrace.toml, params.yaml, the locks and the files that tables say they read."""

    kind = "code"
    reporting = "never"

    @classmethod
    def of_project(cls, code: ProjectCode, settings: Settings) -> list[Self]:
        files = [name for name in (FILE, PARAMS_FILE, *LOCK_FILES) if (settings.root / name).is_file()]
        files += [path for path, digest in code.external.files.items() if digest]
        return [cls(out=CODE, deps=(settings.project, *files))]

    def run(self, context: BuildContext) -> StageResult:
        context.write_code()
        return StageResult(
            f"fingerprints of {len(context.code.tables) + len(context.code.models)} declarations"
        )

    def is_due(self, context: BuildContext) -> bool:
        # A fingerprint also changes with an environment variable, which DVC does not see.
        return context.code != read_project_code(context.pointers)
