"""What the stages of models do: features, the online state, training set, training, release."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import msgspec

from headrace import log as logs
from headrace import registry as registries
from headrace.code.fingerprint import digest
from headrace.features import feast
from headrace.features import online as online_stores
from headrace.features.online.backfill import fill
from headrace.features.plan import FeaturePlan, decode_plan, encode_plan
from headrace.flows.build.graph import Stage, bundle_folder
from headrace.flows.build.pointers import Pointers, write_whole
from headrace.flows.build.work import Done, Workshop
from headrace.flows.models.release import release as put_in_force
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import CallError, Refused
from headrace.kernel.files import move_into_place
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.private import make_private
from headrace.kernel.run import Dataset, run
from headrace.registry import Registry
from headrace.registry.source import write_source
from headrace.serving import release as releases
from headrace.training.files import REPORT
from headrace.training.gate import GateResult
from headrace.training.job import train as train_version
from headrace.training.report import TrainingReport, read_report
from headrace.training.training_set import keep_for_version, make

__all__ = ["features", "online", "release", "train", "training_set"]

_logger = logging.getLogger(__name__)


def features(shop: Workshop, stage: Stage) -> Done:
    """Feast's registry, and one plan a model."""
    project = shop.project()
    feast.apply(project)
    digests = {}
    for name, model in project.models.items():
        plan = feast.compile(project, model)
        write_whole(shop.settings.root / _plan_file(name), encode_plan(plan) + b"\n")
        digests[name] = plan.digest
    shop.pointers.write(stage.out, {"plans": digests})
    return Done(f"applied to Feast; plans of {', '.join(digests)}")


def online(shop: Workshop, stage: Stage) -> Done:
    """The online state of every plan, filled up to the tables' pointers; ingest follows from there on."""
    plans = [plan_of(shop, name) for name in shop.project().models]
    # A topic's own table goes on meanwhile, and its older snapshots expire.
    tables = {view.table for plan in plans for view in plan.stored} & shop.code["tables"].keys()
    at = {name: shop.snapshot(name) for name in tables}
    store = online_stores.open(shop.settings.online.url)
    try:
        filled = [one for plan in plans for one in fill(shop.project(), shop.lake, plan, store, at=at)]
    finally:
        store.close()
    shop.pointers.write(stage.out, {one.view: msgspec.to_builtins(one.position) for one in filled})
    fresh = {one.view: one.entities for one in filled if one.rows}
    told = ", ".join(f"{view} {entities:,} entities" for view, entities in fresh.items())
    return Done(told or "was up to date", sum(one.rows for one in filled))


def training_set(shop: Workshop, stage: Stage) -> Done:
    """Labels joined with features, as a table."""
    project, name = shop.project(), stage.subject
    made = make(project, shop.lake, project.model(name), plan_of(shop, name), inputs=_inputs(shop, name))
    shop.pointers.write(stage.out, msgspec.to_builtins(made))
    left = f"; {made.refused:,} labels are not known yet" if made.refused else ""
    return Done(f"labels with {len(plan_of(shop, name).features)} features{left}", made.rows)


def train(shop: Workshop, stage: Stage) -> Done:
    """Search, fit and evaluation; the bundle's files become an output that DVC keeps."""
    project, name = shop.project(), stage.subject
    registry = registries.open(shop.settings)
    champion = _champion(shop, name)
    trained = train_version(
        project,
        shop.lake,
        project.model(name),
        plan_of(shop, name),
        code=digest([shop.code["lock"], shop.code["models"][name]["fit"]]),
        champion=None if champion is None else registry.bundle(name, champion),
        inputs=_inputs(shop, name),
    )
    _copied(trained.bundle, shop.settings.root / bundle_folder(name))
    report = trained.report
    shop.pointers.write(
        stage.out,
        {
            "model": name,
            "run": report.run,
            "metrics": report.test.metrics,
            **report.test.baseline,
            "gate": msgspec.to_builtins(report.gate),
        },
    )
    metrics = ", ".join(f"{metric} {value:.3f}" for metric, value in report.test.metrics.items())
    baseline = ", ".join(
        f"{name.replace('_', ' ')} {value:.3f}" for name, value in report.test.baseline.items()
    )
    return Done(f"{metrics} ({baseline}){_left_out(report)}", report.test.rows)


def _left_out(report: TrainingReport) -> str:
    """What of the training set the model did not see as it is."""
    text = f"; {report.incomplete:,} rows that serving would refuse are left out" if report.incomplete else ""
    if report.infinite:
        counts = ", ".join(f"{name} in {count:,} rows" for name, count in report.infinite.items())
        text += f"; infinite, and so missing: {counts}"
    return text


def release(shop: Workshop, stage: Stage) -> Done:
    """Registers the version; it becomes champion where the gate, or an override, lets it.

    Raises:
        Refused: the gate says no; the rules that failed are listed.
    """
    name, settings = stage.subject, shop.settings
    model = shop.project().model(name)
    folder = settings.root / bundle_folder(name)
    report = read_report(folder)
    gate = report.gate
    registry = registries.open(settings)
    version = _registered(shop, registry, name, folder, report)
    held = {"model": name, "version": version, "gate": msgspec.to_builtins(gate)}
    if not gate.passed and shop.override is None:
        raise Refused(
            f"the gate refuses version {version} of {name}:\n{_failed(gate)}",
            where=str(model.place),
            remedy=f"Release it all the same: headrace build release-{name} --override WHY",
        )
    if _champion(shop, name) != version:
        why = "the gate passed" if gate.passed else str(shop.override)
        put_in_force(settings, name, [f"champion={version}"], by=shop.by, why=why, override=not gate.passed)
    shop.pointers.write(stage.out, held)
    how = "it passed the gate" if gate.passed else f"by override ({shop.override})"
    how += "".join(f"; {note}" for note in gate.notes)
    return Done(f"version {version} is champion: {how}")


def plan_of(shop: Workshop, model: str) -> FeaturePlan:
    """The model's plan, as the stage `features` wrote it."""
    return decode_plan((shop.settings.root / _plan_file(model)).read_bytes())


def _plan_file(model: str) -> str:
    return Pointers.path("plans", model)


def _inputs(shop: Workshop, model: str) -> dict[str, int]:
    held = shop.pointers.read(Pointers.path("inputs", model))
    assert held is not None
    return {name: int(snapshot) for name, snapshot in held["snapshots"].items()}


def _champion(shop: Workshop, model: str) -> int | None:
    log = logs.open(shop.settings.log.url)
    try:
        present = releases.find_current(log, model)
        return None if present is None else releases.champion_version(present)
    finally:
        log.close()


def _registered(shop: Workshop, registry: Registry, name: str, folder: Path, report: TrainingReport) -> int:
    """The version's number. The same training, judged by the same gate, is one version, however often it comes
    here."""
    place = shop.settings.place("release", name)
    sealed = place / f"{report.run}-{short_digest((folder / REPORT).read_text())}"
    if not sealed.is_dir():
        for left in place.glob("*"):
            shutil.rmtree(left)
        half = make_private(place) / f".{sealed.name}"
        shutil.copytree(folder, half)
        write_source(shop.settings, half / "source.tar.gz")
        move_into_place(half, sealed)
    made = report.training_set
    rows = SnapshotPosition(made.table, made.snapshot)
    with run(
        f"register {name}", [Dataset("model", f"{name}@{report.run}"), Dataset("table", made.table, rows)]
    ) as this:
        version = registry.register(
            name, sealed, metrics=report.metrics, params=report.parameters, tags=report.tags
        )
        try:
            keep_for_version(shop.lake, made, version)
        except CallError as error:  # the version is as good without, but its rows cannot be read again
            _logger.warning("version %d of %s is not tied to its training set: %s", version, name, error)
        this.output(Dataset("model", f"{name}@{version}"))
    return version


def _failed(gate: GateResult) -> str:
    return "\n".join(
        f"  {result.rule}: it is {result.value:.4f}, "
        + (result.note if result.bound is None else f"the bound {result.bound:.4f}")
        for result in gate.failed
    )


def _copied(bundle: Path, to: Path) -> None:
    half = to.with_name(f".{to.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(bundle, half)
    if to.exists():
        shutil.rmtree(to)
    move_into_place(half, to)
    ignore = to.with_name(".gitignore")  # DVC has them; it tells git so only where there is git already
    if not ignore.is_file():
        ignore.write_text("/*\n!/.gitignore\n")
