"""Runs a build: writes the sources' pointers, then runs what DVC finds changed, in order, in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from time import perf_counter

from headrace.flows.build.context import BuildContext
from headrace.flows.build.drift import find_drift, record_state, remove_void_pointers, table_snapshots
from headrace.flows.build.lost_columns import check_lost_columns
from headrace.flows.build.pipeline import Pipeline, init
from headrace.flows.build.pointers import Pointers, write_if_changed
from headrace.flows.build.remake import remake_tables
from headrace.flows.build.report import Progress, StageReport
from headrace.flows.build.revisions import fetch_revisions
from headrace.flows.build.sources import SourceState, find_sources, raise_first_problem, sources_read
from headrace.flows.build.stage import Stage, StageResult
from headrace.flows.build.unchanged import record_build
from headrace.kernel.addresses import is_remote
from headrace.kernel.faults import reach
from headrace.kernel.run import record_with, run
from headrace.workspace import Workspace

__all__ = ["record_runs", "run_build", "run_stage"]


def run_build(context: BuildContext, targets: Sequence[str], progress: Progress) -> list[StageReport]:
    """Brings the targets up to date (see build). Returns one report for each stage to report.

    If a source has a problem, its dependents do not run. The other stages run; then the problem is raised.
    """
    settings, graph = context.settings, context.graph
    check_lost_columns(context)
    init(settings.root)
    selected = graph.select(targets)
    sources = fetch_revisions(context.workspace, context.code, find_sources(context.workspace, context.code))
    problems = [path for path, source in sources.items() if source.problem is not None]
    blocked = graph.makers_of(problems) | graph.dependents_of(problems)
    reports: list[StageReport] = []
    with record_runs(context.workspace), run("build") as build_run:
        for path, source in sources.items():
            if source.head is not None:  # a source's pointer is the output of a stage
                context.pointers.write(path, source.pointer)
        reports += remake_tables(context, selected, blocked, progress)
        remove_void_pointers(context.workspace, graph.stages)
        _remove_lost_pointers(context, selected)
        drift = find_drift(context.workspace, graph.stages)
        write_if_changed(settings.root / "dvc.yaml", graph.dvc_yaml().encode())
        pipeline = Pipeline(settings.root)
        with pipeline.lock():
            for stage in selected:
                if stage.name not in blocked:
                    report = _bring_up_to_date(context, pipeline, stage, progress, drift.get(stage.name))
                    reports += [] if report is None else [report]
        build_run.add_facts(stages=[report.stage for report in reports])
    raise_first_problem(sources, selected)
    if not targets and not context.code.queries:
        _record_build(context, sources)
    return reports


def run_stage(context: BuildContext, stage: Stage, *, restore: bool = False) -> StageResult:
    """Runs one stage, stale or not. The caller records it in dvc.lock.

    Args:
        context: the context of the build.
        stage: the stage.
        restore: only restore what the stage keeps outside of git, to agree with its pointer.
    """
    with run(f"stage {stage.name}") as stage_run:
        result = stage.restore(context) if restore else stage.run(context)
        stage_run.add_facts(what=result.what, rows=result.rows)
    record_state(context.settings, stage)
    return result


def _bring_up_to_date(
    context: BuildContext, pipeline: Pipeline, stage: Stage, progress: Progress, drift: str | None
) -> StageReport | None:
    """Runs the stage if it is stale. Returns its report, or None if there is nothing to report."""
    is_changed = pipeline.is_changed(stage.name)
    if is_changed and stage.kept and pipeline.restore(stage.name):
        is_changed, drift = False, drift or "its files were those of another commit"
    if not is_changed and drift is None and not stage.is_due(context):
        return None
    start = perf_counter()
    before = context.pointers.read(stage.out)
    if stage.reporting == "always":
        progress(StageReport(stage.name, "begins"))
    restore = not is_changed and drift is not None and not stage.is_due(context)
    result = run_stage(context, stage, restore=restore)
    reach("build.before_record")
    pipeline.record(stage.name)
    reach("build.after_record")
    if stage.reporting == "never":
        return None
    if stage.reporting == "on_change" and before == context.pointers.read(stage.out):
        return None
    report = StageReport(stage.name, result.what, result.rows, perf_counter() - start)
    progress(report)
    return report


def _remove_lost_pointers(context: BuildContext, stages: Iterable[Stage]) -> None:
    for stage in stages:
        if context.pointers.read(stage.out) is not None and stage.is_lost(context):
            context.pointers.remove(stage.out)


def _record_build(context: BuildContext, sources: Mapping[str, SourceState]) -> None:
    tables = table_snapshots(context.workspace, context.graph.stages).values()
    external, read = context.code.external, sources_read(context.code).values()
    record_build(
        context.settings,
        heads=dict(source.head for source in sources.values() if source.head is not None),
        tables={table: snapshot for table, snapshot, _ in tables},
        files=sorted({*(source.path for source in read if source.is_tracked), *external.files}),
        objects=[
            [source.path, source.glob, sources[Pointers.path("sources", name)].pointer["objects"]]
            for name, source in sources_read(context.code).items()
            if is_remote(source.path)
        ],
        revisions={
            str(source.pointer["revision"]): str(source.pointer["commit"])
            for source in sources.values()
            if "revision" in source.pointer
        },
        published=[
            [name, publication.database, {table: context.snapshot(table) for table in publication.tables}]
            for name, publication in context.code.publications.items()
            if publication.database in context.settings.databases.addresses
        ],
        env=sorted(external.env),
        due=min(context.next_refreshes().values(), default=None),
    )


@contextmanager
def record_runs(workspace: Workspace) -> Iterator[None]:
    """Records every run of the block in the lineage store, and trainings in MLflow too.

    MLflow is loaded when a training has ended, so a build of tables alone does not load it.
    """
    from headrace.training.recorder import MlflowRecorder

    with ExitStack() as stack:
        recorder = stack.enter_context(
            workspace.lineage.recorder()
        )  # when it ends, everything has been written
        stack.enter_context(record_with(recorder))
        stack.enter_context(record_with(MlflowRecorder(workspace.registry)))
        yield
