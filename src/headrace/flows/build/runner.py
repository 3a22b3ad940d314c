"""Runs a build: writes the sources' pointers, then runs what DVC finds changed, in order, in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from time import perf_counter

import attrs

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
from headrace.flows.build.stages.publish import PublishStage
from headrace.flows.build.stages.table import TableStage
from headrace.flows.build.unchanged import record_build
from headrace.flows.build.visibility import ensure_record, find_stale_tables, make_visible
from headrace.kernel.addresses import is_remote
from headrace.kernel.errors import HeadraceError
from headrace.kernel.faults import reach
from headrace.kernel.run import record_with, run
from headrace.kernel.secrets import clean_text
from headrace.lake.table_state import rows_snapshot_ids
from headrace.lake.visible import TABLE as VISIBLE
from headrace.lineage.recorder import OutboxRecorder
from headrace.workspace import Workspace

__all__ = ["record_runs", "run_build", "run_stage"]


def run_build(context: BuildContext, targets: Sequence[str], progress: Progress) -> list[StageReport]:
    """Brings the targets up to date (see build). Returns one report for each stage to report.

    If a source has a problem, or a table, its dependents do not run. The other stages run, and the tables among
    them become visible; then the first problem is raised.
    """
    settings, graph = context.settings, context.graph
    check_lost_columns(context)
    init(settings.root)
    selected = graph.select(targets)
    sources = fetch_revisions(context.workspace, context.code, find_sources(context.workspace, context.code))
    with record_runs(context.workspace) as recorder, run("build") as build_run:
        work = _Work(context, progress, recorder)
        for path, source in sources.items():
            if source.problem is not None:
                work.block(path, source.problem)
        ensure_record(context)
        for path, source in sources.items():
            if source.head is not None:  # a source's pointer is the output of a stage
                context.pointers.write(path, source.pointer)
        reports = remake_tables(context, selected, work.blocked, progress)
        remove_void_pointers(context.workspace, graph.stages)
        _remove_lost_pointers(context, selected)
        drift = find_drift(context.workspace, graph.stages)
        write_if_changed(settings.root / "dvc.yaml", graph.dvc_yaml().encode())
        pipeline = Pipeline(settings.root)
        tables, readers = _split(selected)
        with pipeline.lock():
            reports += work.run_stages(pipeline, tables, drift)
            reports += work.make_visible(selected, is_whole=not targets)
            reports += work.run_stages(pipeline, readers, drift)
        build_run.add_facts(stages=[report.stage for report in reports])
        work.raise_first_error()
    raise_first_problem(sources, selected)
    if not targets and not context.code.queries:
        _record_build(context, sources)
    return reports


def _split(stages: Sequence[Stage]) -> tuple[list[Stage], list[Stage]]:
    """The stages up to the last table, and those after it."""
    last = max((at for at, stage in enumerate(stages) if isinstance(stage, TableStage)), default=-1)
    return list(stages[: last + 1]), list(stages[last + 1 :])


@attrs.define
class _Work:
    """The work of one build.

    Attributes:
        context: the context of the build.
        progress: called for each stage.
        recorder: what writes the runs of the stages.
        blocked: stage that cannot run, or has failed → why.
        errors: the errors of the stages that failed.
    """

    context: BuildContext
    progress: Progress
    recorder: OutboxRecorder
    blocked: dict[str, str] = attrs.field(factory=dict)
    errors: list[HeadraceError] = attrs.field(factory=list)

    def block(self, path: str, error: HeadraceError) -> None:
        """Blocks the stage that writes this file, and those that depend on it."""
        graph = self.context.graph
        makers = graph.makers_of([path])
        for name in makers | graph.dependents_of([path]):
            self.blocked.setdefault(name, f"{next(iter(makers), path)} failed: {clean_text(error.what)}")

    def run_stages(
        self, pipeline: Pipeline, stages: Iterable[Stage], drift: Mapping[str, str]
    ) -> list[StageReport]:
        """Runs those that are stale. An isolated stage that fails blocks those that depend on it."""
        reports = []
        for stage in stages:
            if stage.name in self.blocked:
                continue
            start = perf_counter()
            try:
                report = self._bring_up_to_date(pipeline, stage, drift.get(stage.name))
            except HeadraceError as error:
                if not stage.is_isolated:
                    raise
                self.errors.append(error)
                self.block(stage.out, error)
                what = f"failed: {clean_text(error.what)}"
                self.progress(StageReport(stage.name, what, seconds=perf_counter() - start))
            else:
                reports += [] if report is None else [report]
        return reports

    def _bring_up_to_date(self, pipeline: Pipeline, stage: Stage, drift: str | None) -> StageReport | None:
        """Runs the stage if it is stale. Returns its report, or None if there is nothing to report."""
        is_changed = pipeline.is_changed(stage.name)
        if is_changed and stage.kept and pipeline.restore(stage.name):
            is_changed, drift = False, drift or "its files were those of another commit"
        if not is_changed and drift is None and not stage.is_due(self.context):
            return None
        start = perf_counter()
        before = self.context.pointers.read(stage.out)
        if stage.reporting == "always":
            self.progress(StageReport(stage.name, "begins"))
        restore = not is_changed and drift is not None and not stage.is_due(self.context)
        result = run_stage(self.context, stage, restore=restore)
        self.recorder.flush()  # a stage that is recorded as done does not run again, so its run must be written
        reach("build.before_record")
        pipeline.record(stage.name)
        reach("build.after_record")
        if stage.reporting == "never":
            return None
        if stage.reporting == "on_change" and before == self.context.pointers.read(stage.out):
            return None
        report = StageReport(stage.name, result.what, result.rows, perf_counter() - start)
        self.progress(report)
        return report

    def make_visible(self, selected: Iterable[Stage], *, is_whole: bool) -> list[StageReport]:
        """Makes the tables visible. Publications of tables that are not visible yet are blocked."""
        context = self.context
        tables = {stage.subject: stage.name for stage in context.graph.stages if isinstance(stage, TableStage)}
        stale = {table: self.blocked[name] for table, name in tables.items() if name in self.blocked}
        if not is_whole:
            ready = {stage.subject for stage in selected if isinstance(stage, TableStage)} - stale.keys()
            stale = {**find_stale_tables(context, ready), **stale}
        waiting = make_visible(context, stale).waiting
        if not waiting:
            return []
        pointers = {context.code.pointer_of(table) for table in waiting}
        publications: list[str] = []
        for stage in context.graph.stages:
            if isinstance(stage, PublishStage) and not pointers.isdisjoint(stage.deps):
                self.blocked.setdefault(stage.name, "its tables are not visible yet")
                publications.append(stage.name)
        why = "; ".join(dict.fromkeys(waiting.values()))
        why += f"; {', '.join(publications)} waits for them" if publications else ""
        report = StageReport(
            "visible", f"readers do not see the new {', '.join(waiting)} yet: {why}", seconds=0
        )
        self.progress(report)
        return [report]

    def raise_first_error(self) -> None:
        """Raises the error of the first stage that failed, if any; it names the other stages that failed."""
        if not self.errors:
            return
        error, *others = self.errors
        more = "".join(f"\nFailed too: {other}" for other in others)
        error.remedy = f"{error.remedy or ''}{more}".strip() or None
        raise error


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
        tables={
            **{table: snapshot for table, snapshot, _ in tables},
            **rows_snapshot_ids(context.lake, [VISIBLE]),
        },
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
def record_runs(workspace: Workspace) -> Iterator[OutboxRecorder]:
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
        yield recorder
