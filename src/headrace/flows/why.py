"""Why: from a prediction the way back to the raw events that made it, and the proof that they did."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from headrace import lake as lakes
from headrace import lineage, registry
from headrace import log as logs
from headrace.config.settings import Settings
from headrace.declare.project import Project, load_project
from headrace.features.on_demand import OnDemand
from headrace.features.online import RowPosition, ServedPosition, StreamPosition
from headrace.features.plan import AsOfView, OnDemandView, Plan, StoredView, decode_plan
from headrace.flows.evidence import Evidence, RawEvent, Row, as_of, windowed
from headrace.flows.predictions import Place, find
from headrace.kernel.errors import CallError, Refused, Unavailable
from headrace.kernel.position import SnapshotPosition
from headrace.lake import Lake
from headrace.lineage.graph import Node, upstream
from headrace.log import Log
from headrace.registry import Registry
from headrace.registry.bundle import MANIFEST, Manifest
from headrace.serving.prediction_log import Prediction
from headrace.serving.release import Release, history

__all__ = ["FeatureWhy", "MadeFrom", "VersionWhy", "ViewWhy", "Why", "why"]

_EVENTS = 20
_SOURCE = "source.tar.gz"


class FeatureWhy(Struct, frozen=True):
    """One feature of the prediction.

    Attributes:
        name: `view__feature`.
        served: the value that the model saw; None: missing.
        again: the value made again by the offline path from exactly what the online one had read.
        equal: whether they are the same; None where it could not be made again.
        events: how many raw events it counts; None where it is no windowed feature.
    """

    name: str
    served: Any
    again: Any
    equal: bool | None
    events: int | None = None


class ViewWhy(Struct, frozen=True):
    """The features of one view and what they were made of.

    Attributes:
        name, kind: `windowed`, `as_of` or `on_demand`.
        position: what the values stand for, as it was served; None of an on-demand view.
        features: those of the view that the model uses.
        events: of a windowed view: the raw events behind, the newest first, capped; `total` is all.
        row: of an as-of view: the row of its table.
        inputs: of an on-demand view: what its function was given.
        notes: what a reader should know.
    """

    name: str
    kind: str
    position: ServedPosition | None
    features: tuple[FeatureWhy, ...]
    events: tuple[RawEvent, ...] = ()
    total: int = 0
    row: Row | None = None
    inputs: dict[str, Any] = {}
    notes: tuple[str, ...] = ()


class MadeFrom(Struct, frozen=True):
    """What a version was made of.

    Attributes:
        run: the id of the run that trained it.
        code: the fingerprint of the model's declaration and of the project's code it reaches.
        commit: the git commit it was trained at, `-dirty` behind it where files differed from it;
            None: the project was in no checkout.
        table, snapshot, rows: its training set.
        pinned: whether that snapshot is pinned, so that it can still be read.
        inputs: table → the snapshot that the training set was made from.
        source: `sha256:` of the archive of the project's source in the bundle; None: there is none.
        rounds, parameters: of the fit.
        gate: whether it passed the gate; None: not known.
    """

    run: str
    code: str
    table: str
    snapshot: int
    rows: int
    pinned: bool
    inputs: dict[str, int]
    source: str | None
    rounds: int | None
    parameters: dict[str, Any]
    gate: bool | None
    commit: str | None = None


class VersionWhy(Struct, frozen=True):
    """The version that answered.

    Attributes:
        model, version: which.
        mlflow_run: the MLflow run that its files lie in; None where MLflow could not be asked.
        created: when it was registered. aliases: as they are now.
        metrics: of the held-out test part.
        made_from: what its bundle says of its making.
        plan: the digest of its plan.
    """

    model: str
    version: int
    mlflow_run: str | None
    created: datetime | None
    aliases: tuple[str, ...]
    metrics: dict[str, float]
    made_from: MadeFrom
    plan: str


class _TrainingSet(Struct):
    table: str
    snapshot: int
    rows: int
    inputs: dict[str, int]


class _Gate(Struct):
    passed: bool


class _Report(Struct):
    """What is read of training.json; training.job writes it, and would bring Ray."""

    run: str
    code: str
    training_set: _TrainingSet
    rounds: int | None = None
    parameters: dict[str, Any] = {}
    gate: _Gate | None = None
    commit: str | None = None


class Why(Struct, frozen=True):
    """A prediction and all that is behind it.

    Attributes:
        prediction: as it was logged. found: where: `table`, `log` or `spool`.
        release: the release that was in force; None where it is not on the log.
        views: by view, what the features were made of.
        equal: whether every feature, made again, is what was served.
        version: what answered.
        lineage: the version upstream to the topics, as far as runs were recorded.
        notes: what could not be found, and why.
    """

    prediction: Prediction
    found: Place
    release: Release | None
    views: tuple[ViewWhy, ...]
    equal: bool
    version: VersionWhy
    lineage: Node
    notes: tuple[str, ...]


def why(settings: Settings, prediction_id: str, *, events: int = _EVENTS) -> Why:
    """What made the prediction: each feature with the raw events behind it, made again and compared;
    the version with its training run, snapshots and code; the lineage up to the topics.

    Args:
        settings: whose project.
        prediction_id: the `id` of an answer.
        events: how many raw events are listed a view.

    Raises:
        CallError: there is no such prediction, or its version is gone.
        Unavailable: the events behind it are not ingested yet, or a service is away.
        Refused: the version's bundle was changed.
    """
    project = load_project(settings, without=["feast"])
    lake = lakes.open(settings)
    log = logs.open(settings.log_url)
    try:
        prediction, found = find(settings, lake, log, prediction_id)
        versions = registry.open(settings)
        bundle = versions.bundle(prediction.model, prediction.version)
        plan = decode_plan((bundle / "plan.json").read_bytes())
        views = _views(project, lake, plan, prediction, events)
        notes: list[str] = []
        release = _release(log, prediction, notes)
        made_from = _made_from(lake, bundle)
        version = _version(versions, prediction, plan, made_from, notes)
    finally:
        log.close()
    store = lineage.open(settings)
    graph = _graph(store, prediction, made_from)
    store.close()
    equal = all(one.equal is True for view in views for one in view.features)
    return Why(prediction, found, release, views, equal, version, graph, tuple(notes))


def _views(project: Project, lake: Lake, plan: Plan, prediction: Prediction, most: int) -> tuple[ViewWhy, ...]:
    known: dict[str, Any] = {}
    made: list[ViewWhy] = []
    for view in plan.views:
        if isinstance(view, OnDemandView):
            made.append(_on_demand(plan, view, prediction, known))
            continue
        position = _position(view.name, prediction)
        try:
            evidence = _evidence(project, lake, plan, view, prediction, position, most)
        except (CallError, Unavailable) as error:
            made.append(_unknown(plan, view, prediction, position, str(error)))
            continue
        known |= {f"{view.name}__{name}": value for name, value in evidence.values.items()}
        features = tuple(
            _feature(plan, one.column, prediction, evidence.values[one.name], evidence.counted.get(one.name))
            for one in plan.features
            if one.view == view.name
        )
        kind = "as_of" if isinstance(view, AsOfView) else "windowed"
        made.append(
            ViewWhy(
                view.name, kind, position, features, evidence.events, evidence.total, evidence.row,
                notes=evidence.notes,
            )
        )  # fmt: skip
    return tuple(made)


def _position(view: str, prediction: Prediction) -> ServedPosition | None:
    given = prediction.positions.get(view)
    return None if given is None else msgspec.convert(given, StreamPosition | RowPosition, strict=False)


def _evidence(
    project: Project,
    lake: Lake,
    plan: Plan,
    view: StoredView,
    prediction: Prediction,
    position: ServedPosition | None,
    most: int,
) -> Evidence:
    entity, at = prediction.entity, prediction.at
    if isinstance(view, AsOfView) and isinstance(position, RowPosition):
        return as_of(project, lake, plan, view, entity, at, position)
    if not isinstance(view, AsOfView) and isinstance(position, StreamPosition):
        return windowed(project, lake, plan, view, entity, at, position, most)
    raise CallError(f"the prediction carries no position of view {view.name!r}")


def _unknown(
    plan: Plan, view: StoredView, prediction: Prediction, position: ServedPosition | None, note: str
) -> ViewWhy:
    features = tuple(
        FeatureWhy(one.column, _present(prediction.features.get(one.column)), None, None)
        for one in plan.features
        if one.view == view.name
    )
    kind = "as_of" if isinstance(view, AsOfView) else "windowed"
    return ViewWhy(view.name, kind, position, features, notes=(note,))


def _on_demand(plan: Plan, view: OnDemandView, prediction: Prediction, known: dict[str, Any]) -> ViewWhy:
    """An on-demand view again, from the request and from the other views' values, made again too."""
    function = OnDemand(view)
    inputs: dict[str, Any] = {}
    lacking = []
    for name, one in function.inputs:
        source = one.name if one.view is None else f"{one.view}__{one.name}"
        values = prediction.request if one.view is None else known
        if one.view is not None and source not in known:
            lacking.append(source)
        inputs[name] = values.get(source)
    again = [None] * len(function.names) if lacking else function.row(inputs)
    made = dict(zip(function.names, again, strict=True))
    if not lacking:
        # What could not be made again stays unknown to the views that read it.
        known |= {f"{view.name}__{name}": value for name, value in made.items()}
    features = tuple(
        FeatureWhy(one.column, _present(prediction.features.get(one.column)), None, None)
        if lacking
        else _feature(plan, one.column, prediction, made[one.name], None)
        for one in plan.features
        if one.view == view.name
    )
    notes = (f"{', '.join(lacking)} could not be made again",) if lacking else ()
    return ViewWhy(view.name, "on_demand", None, features, inputs=inputs, notes=notes)


def _feature(plan: Plan, column: str, prediction: Prediction, again: Any, events: int | None) -> FeatureWhy:
    served = _present(prediction.features.get(column))
    again = _present(again)
    if again is None and isinstance(plan.missing, dict):
        again = plan.missing.get(column)
    return FeatureWhy(column, served, again, _equal(served, again), events)


def _present(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _equal(served: Any, again: Any) -> bool:
    """Whether both are the same number as a model sees it: in its matrix, as float64 or as float32."""
    if served is None or again is None:
        return served is None and again is None
    if isinstance(again, (bool, int, float)) and isinstance(served, (bool, int, float)):
        return float(served) == float(again) or float(served) == float(np.float32(again))
    return bool(served == again)


def _release(log: Log, prediction: Prediction, notes: list[str]) -> Release | None:
    for release in history(log, prediction.model):
        if release.id == prediction.release:
            return release
    notes.append(f"release {prediction.release} is not on the log any more")
    return None


def _version(
    versions: Registry, prediction: Prediction, plan: Plan, made_from: MadeFrom, notes: list[str]
) -> VersionWhy:
    model, number = prediction.model, prediction.version
    try:
        one = versions.version(model, number)
    except (CallError, Refused, Unavailable) as error:
        notes.append(f"MLflow could not be asked: {error.what}")
        return VersionWhy(model, number, None, None, (), {}, made_from, plan.digest)
    return VersionWhy(model, number, one.run_id, one.created, one.aliases, one.metrics, made_from, plan.digest)


def _made_from(lake: Lake, bundle: Path) -> MadeFrom:
    report = msgspec.json.decode((bundle / "training.json").read_bytes(), type=_Report)
    manifest = msgspec.json.decode((bundle / MANIFEST).read_bytes(), type=Manifest)
    source = manifest.files.get(_SOURCE)
    made = report.training_set
    pins = lake.table(made.table).pins().values() if lake.exists(made.table) else ()
    return MadeFrom(
        report.run,
        report.code,
        made.table,
        made.snapshot,
        made.rows,
        made.snapshot in pins,
        made.inputs,
        None if source is None else f"sha256:{source}",
        report.rounds,
        report.parameters,
        None if report.gate is None else report.gate.passed,
        report.commit,
    )


def _graph(store: lineage.Store, prediction: Prediction, made_from: MadeFrom) -> Node:
    """The version upstream; by its training run where the run that registered it is not recorded."""
    node = upstream(store, "model", f"{prediction.model}@{prediction.version}")
    if node.run is not None:
        return node
    rows = SnapshotPosition(made_from.table, made_from.snapshot)
    return Node(
        node.dataset, store.run(made_from.run), True, (upstream(store, "table", made_from.table, rows),)
    )
