"""The walk: moves the sources' pointers, then runs what DVC finds changed, in order, in this process."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from time import perf_counter

import msgspec

from headrace.config.settings import Settings
from headrace.features import online
from headrace.features.checks.applied import is_filled, is_registry_as_applied
from headrace.features.plan import decode_plan
from headrace.flows.build import sources
from headrace.flows.build.graph import Stage, dvc_yaml, stages_for
from headrace.flows.build.pipeline import Pipeline, init
from headrace.flows.build.planning import next_due, stages
from headrace.flows.build.pointers import Pointers, write_whole
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
        _drop_what_feast_took(shop, {stage.kind for stage in chosen})
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
    """What DVC does not look at: held-back inputs become due by the clock, fingerprints change with an
    environment variable."""
    if stage.kind == "code":
        return shop.code != shop.pointers.read(stage.out)
    if stage.kind != "inputs":
        return False
    try:
        return shop.taken_because(stage.subject, shop.inputs_of(stage.subject)) is not None
    except ProjectError:
        return False


def _drop_what_feast_took(shop: Workshop, kinds: Collection[str]) -> None:
    """A pointer to a registry or an online state that is not as the build left it is none. Feast's own commands
    write both: apply, teardown, materialize."""
    if "features" in kinds and not is_registry_as_applied(shop.settings):
        shop.pointers.remove("pointers/features.json")
    if "online" in kinds and not _is_online_filled(shop):
        shop.pointers.remove("pointers/online.json")


def _is_online_filled(shop: Workshop) -> bool:
    """Whether the online store holds every view of the plans; of one that was never compiled it does not."""
    files = [shop.settings.root / Pointers.path("plans", model) for model in shop.code["models"]]
    try:
        plans = [decode_plan(file.read_bytes()) for file in files]
    except (FileNotFoundError, msgspec.DecodeError):
        return False
    with closing(online.open(shop.settings.online.url)) as store:
        return is_filled(store, plans)


def _remember(shop: Workshop, moved: dict[str, dict[str, object]], every: list[Stage]) -> None:
    used = {str(one["table"]): int(str(one["snapshot"])) for one in moved.values() if "table" in one}
    in_lake = [stage for stage in every if stage.kind in IN_LAKE]
    made = {table: snapshot for table, snapshot, _ in tables_standing(shop.settings, in_lake).values()}
    paths = sources.read_by_tables(shop.code)[1]
    outside = shop.code["outside"]
    due = min((datetime.fromisoformat(one) for one in next_due(shop).values()), default=None)
    read = sorted({*paths.values(), *outside["files"]})
    remember(shop.settings, used, made, read, sorted(outside["env"]), due)


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
