"""The walk: moves the sources' pointers, then runs what DVC finds changed, in order, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from time import perf_counter

from headrace.config.settings import Settings
from headrace.flows.build import sources
from headrace.flows.build.graph import Stage, dvc_yaml, stages_for
from headrace.flows.build.pipeline import Pipeline, init
from headrace.flows.build.planning import next_due, stages
from headrace.flows.build.pointers import write_whole
from headrace.flows.build.report import Progress, StageReport
from headrace.flows.build.standing import IN_LAKE, displaced, drop_dangling, tables_standing
from headrace.flows.build.unchanged import remember
from headrace.flows.build.work import Workshop, bring_back, work
from headrace.kernel.errors import ProjectError
from headrace.kernel.faults import reach
from headrace.kernel.run import recorder_added, run

__all__ = ["recorded_runs", "walk"]


def walk(shop: Workshop, targets: tuple[str, ...], progress: Progress) -> list[StageReport]:
    """Brings the targets up to date; see build."""
    settings = shop.settings
    init(settings.root)
    every = stages(shop)
    chosen = stages_for(every, targets)
    moved = sources.current(settings, shop.code)
    with recorded_runs(settings), run("build") as this:
        for path, held in moved.items():
            shop.pointers.write(path, held)
        drop_dangling(settings, every)
        elsewhere = displaced(settings, every)
        write_whole(settings.root / "dvc.yaml", dvc_yaml(every).encode())
        pipeline = Pipeline(settings.root)
        done: list[StageReport] = []
        with pipeline.held():
            for stage in chosen:
                done += _step(shop, pipeline, stage, progress, elsewhere.get(stage.name))
        this.fact(stages=[one.stage for one in done])
    if not targets:
        _remember(shop, moved, every)
    return done


def _step(
    shop: Workshop, pipeline: Pipeline, stage: Stage, progress: Progress, elsewhere: str | None
) -> list[StageReport]:
    """Runs a stage where it must; `elsewhere`: what of it stands elsewhere than its pointer says, or None."""
    changed = pipeline.changed(stage.name)
    if changed and stage.files and pipeline.restore(stage.name):
        changed, elsewhere = False, elsewhere or "its files were those of another commit"
    if not changed and elsewhere is None and not _due(shop, stage):
        return []
    begun = perf_counter()
    book = stage.kind in ("code", "inputs")  # bookkeeping: it is told only where it changes something
    before = shop.pointers.read(stage.out)
    if not book:
        progress(StageReport(stage.name, "begins"))
    with run(f"stage {stage.name}") as this:
        made = work(shop, stage) if changed or elsewhere is None else bring_back(shop, stage)
        this.fact(what=made.what, rows=made.rows)
    reach("build.before_record")
    pipeline.record(stage.name)
    reach("build.after_record")
    if book and (stage.kind == "code" or before == shop.pointers.read(stage.out)):
        return []
    report = StageReport(stage.name, made.what, made.rows, perf_counter() - begun)
    progress(report)
    return [report]


def _due(shop: Workshop, stage: Stage) -> bool:
    """Held-back inputs become due by the clock, which DVC does not look at."""
    if stage.kind != "inputs":
        return False
    try:
        return shop.taken_because(stage.subject, shop.inputs_of(stage.subject)) is not None
    except ProjectError:
        return False


def _remember(shop: Workshop, moved: dict[str, dict[str, object]], every: list[Stage]) -> None:
    used = {str(one["table"]): int(str(one["snapshot"])) for one in moved.values() if "table" in one}
    in_lake = [stage for stage in every if stage.kind in IN_LAKE]
    made = {table: snapshot for table, snapshot, _ in tables_standing(shop.settings, in_lake).values()}
    paths = sources.read_by_tables(shop.code)[1]
    due = min((datetime.fromisoformat(one) for one in next_due(shop).values()), default=None)
    remember(shop.settings, used, made, sorted(paths.values()), due)


@contextmanager
def recorded_runs(settings: Settings) -> Iterator[None]:
    """While the block runs, every run goes to the lineage store, and trainings to MLflow as well.

    MLflow itself is loaded when a training has ended: a build that touches tables only never pays for it.
    """
    from headrace import lineage, registry
    from headrace.training.recorder import MlflowRecorder

    with ExitStack() as stack:
        store = lineage.open(settings)
        stack.callback(store.close)
        recorder = stack.enter_context(store.recorder())  # at its end everything has been written
        stack.enter_context(recorder_added(recorder))
        stack.enter_context(recorder_added(MlflowRecorder(registry.open(settings))))
        yield
