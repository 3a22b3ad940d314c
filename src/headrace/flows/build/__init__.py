"""build: brings the stages that are stale up to date.

The stage graph is DVC's (dvc.yaml, dvc.lock), so plain `dvc repro` and `dvc status` agree with it. This
runs the stale stages in one process. Importing this module is cheap, because a build first decides whether
it has anything to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

from headrace.config.settings import Settings
from headrace.flows.build.report import BuildReport, Progress, StageReport, silent
from headrace.flows.build.unchanged import is_unchanged
from headrace.kernel.errors import Unavailable
from headrace.kernel.lock import find_holder, try_lock
from headrace.tables.range import BuildRange
from headrace.workspace import Workspace

__all__ = ["BuildReport", "Progress", "StageReport", "build", "hold_build_lock", "run_stage", "silent"]


def build(
    workspace: Workspace,
    targets: Sequence[str] = (),
    *,
    dry_run: bool = False,
    override: str | None = None,
    only: BuildRange | None = None,
    progress: Progress = silent,
) -> BuildReport:
    """Brings the targets (default: everything) up to date.

    If a build is killed at any point, the next one continues.

    Args:
        workspace: the project to work on.
        targets: stages, tables or models; they are built with all that they need.
        dry_run: only report what would run, and why.
        override: the reason to release a version that the gate refuses.
        only: what to make of the target tables (default: of every table), stale or not; a range of days is made
            of one table.
        progress: called for each stage.

    Raises:
        ProjectError: the project is wrong, or a source has no files; stages that do not need it have run.
        CallError: a target does not exist.
        Refused: an audit or a gate refused a result; what was published before is as it was. Or something reads
            a column that changed code takes from a table; then nothing has run.
        Unavailable: another build runs on this project, or a service cannot be reached.
    """
    start, settings = perf_counter(), workspace.settings
    if override is None and only is None and is_unchanged(workspace):
        if targets:
            _check_targets(settings, targets)
        return BuildReport((), perf_counter() - start, dry_run, is_empty=_is_empty(settings))
    if dry_run:
        from headrace.flows.build.context import BuildContext
        from headrace.flows.build.lost_columns import check_lost_columns
        from headrace.flows.build.preview import plan_build

        check_lost_columns(BuildContext(workspace))
        reports = [
            StageReport(planned.stage.name, "; ".join(reason.what for reason in planned.reasons))
            for planned in plan_build(workspace, targets, only=only)
            if planned.reasons
        ]
        return BuildReport(tuple(reports), perf_counter() - start, dry_run=True)
    with hold_build_lock(settings):
        from headrace.flows.build.context import BuildContext
        from headrace.flows.build.runner import run_build

        context = BuildContext(workspace, override, progress=progress)
        context.only = context.choose_tables(targets, only)
        reports = run_build(context, targets, progress)
    return BuildReport(tuple(reports), perf_counter() - start, is_empty=_is_empty(settings))


def run_stage(workspace: Workspace, name: str) -> str:
    """Runs one stage for `dvc repro`, where DVC decides what is stale. Returns what the stage did.

    Raises:
        CallError: the project has no such stage.
        HeadraceError: the stage failed.
    """
    with hold_build_lock(workspace.settings):
        from headrace.flows.build.context import BuildContext
        from headrace.flows.build.runner import record_runs
        from headrace.flows.build.runner import run_stage as run
        from headrace.flows.build.visibility import ensure_record, find_stale_tables, make_visible

        context = BuildContext(workspace)
        stage = context.graph.stage(name)
        with record_runs(workspace):
            ensure_record(context)
            result = run(context, stage)
            if stage.kind == "table":
                make_visible(context, find_stale_tables(context, {stage.subject}))
            return result.what


def _is_empty(settings: Settings) -> bool:
    from headrace.flows.build.pointers import Pointers
    from headrace.flows.build.project_code import read_project_code

    code = read_project_code(Pointers(settings.root))
    return code is None or not (code.tables or code.models or code.publications or code.sources)


def _check_targets(settings: Settings, targets: Sequence[str]) -> None:
    from headrace.flows.build.graph import StageGraph
    from headrace.flows.build.pointers import Pointers
    from headrace.flows.build.project_code import read_project_code

    code = read_project_code(Pointers(settings.root))
    if code is not None:
        StageGraph.of_project(code, settings).select(targets)


@contextmanager
def hold_build_lock(settings: Settings) -> Iterator[None]:
    """Holds the lock that allows one build per project and profile. It is released when the process ends.

    Raises:
        Unavailable: another process is building.
    """
    path = settings.make_state() / "build.lock"
    file = try_lock(path)
    if file is None:
        raise Unavailable(
            f"another build is running on this project (process {find_holder(path) or '?'})",
            where=str(path),
            remedy="Wait until it has ended, or end it: the next build continues where it stopped.",
        )
    with file:
        yield
