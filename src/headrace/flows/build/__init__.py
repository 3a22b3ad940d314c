"""build: brings up to date what is stale, and nothing else.

The graph is DVC's (dvc.yaml, dvc.lock): this walks it in one warm process, and plain `dvc repro` and
`dvc status` agree afterwards. Importing this loads nothing heavy: whether there is anything to do is
decided first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

from headrace.config.settings import Settings
from headrace.flows.build.report import BuildReport, Progress, StageReport, silent
from headrace.flows.build.unchanged import nothing_new
from headrace.kernel.errors import CallError, Unavailable
from headrace.kernel.lock import find_holder, try_lock

__all__ = ["BuildReport", "Progress", "StageReport", "build", "hold_build_lock", "run_stage", "silent"]


def build(
    settings: Settings,
    targets: Sequence[str] = (),
    *,
    dry_run: bool = False,
    override: str | None = None,
    progress: Progress = silent,
) -> BuildReport:
    """Brings the targets (default: everything) up to date.

    Killed at any point, the next build goes on where this one was.

    Args:
        settings: whose project.
        targets: stages, tables or models; with what they need.
        dry_run: only say what would run, and why.
        override: release a version though the gate refuses it, for this reason.
        progress: is told of each stage.

    Raises:
        ProjectError, CallError: the project is wrong; there is no such target.
        Refused: an audit or a gate said no; what was published before is as it was.
        Unavailable: another build works on this project, or a service is away.
    """
    begun = perf_counter()
    if override is None and nothing_new(settings):
        if targets:
            _check_targets(settings, tuple(targets))
        return BuildReport((), perf_counter() - begun, dry_run)
    if dry_run:
        from headrace.flows.build.planning import planned

        would = [
            StageReport(one.stage.name, "; ".join(r.what for r in one.reasons))
            for one in planned(settings, tuple(targets))
            if one.reasons
        ]
        return BuildReport(tuple(would), perf_counter() - begun, dry_run=True)
    with hold_build_lock(settings):
        from headrace.flows.build.walk import walk
        from headrace.flows.build.work import Workshop

        done = walk(Workshop(settings, override), tuple(targets), progress)
    return BuildReport(tuple(done), perf_counter() - begun)


def run_stage(settings: Settings, name: str) -> str:
    """Does one stage's work, for `dvc repro`: DVC itself decides and records. Returns what it did.

    Raises:
        CallError: there is no such stage.
        HeadraceError: as the stage's work.
    """
    with hold_build_lock(settings):
        from headrace.flows.build.planning import stages as every_stage
        from headrace.flows.build.walk import recorded_runs
        from headrace.flows.build.work import Workshop, work
        from headrace.kernel.run import run

        shop = Workshop(settings)
        stages = {stage.name: stage for stage in every_stage(shop)}
        if name not in stages:
            raise CallError(f"there is no stage {name!r}", remedy=f"There are: {', '.join(stages)}.")
        with recorded_runs(settings), run(f"stage {name}"):
            return work(shop, stages[name]).what


def _check_targets(settings: Settings, targets: tuple[str, ...]) -> None:
    from headrace.flows.build.graph import stages_for, stages_of
    from headrace.flows.build.pointers import CODE, Pointers

    stages_for(stages_of(Pointers(settings.root).read(CODE) or {}, settings.project), targets)


@contextmanager
def hold_build_lock(settings: Settings) -> Iterator[None]:
    """One build a project and profile at a time; the lock goes with the process that holds it.

    Raises:
        Unavailable: another process builds.
    """
    path = settings.make_state() / "build.lock"
    file = try_lock(path)
    if file is None:
        raise Unavailable(
            f"another build works on this project (process {find_holder(path) or '?'})",
            where=str(path),
            remedy="Wait for its end; or end it: the next build goes on where it was.",
        )
    with file:
        yield
