"""Why: from a prediction the way back to the raw events that made it, and the proof that they did."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from headrace import lake as lakes
from headrace import lineage, registry
from headrace import log as logs
from headrace.config.settings import Settings
from headrace.features.checks.recompute import Recomputed, ServedPrediction, recompute, views_of_edited_code
from headrace.features.online import RowPosition, ServedPosition, StreamPosition
from headrace.features.plan import AsOfView, FeaturePlan, OnDemandView, StoredView, WindowedView, decode_plan
from headrace.features.values.conversion import decode_fields
from headrace.flows.models.predictions import PredictionPlace, find_prediction
from headrace.flows.trace.evidence import Evidence, RawEvent, Row, as_of, windowed
from headrace.kernel.errors import CallError, Refused, Unavailable
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.time import micros
from headrace.lake import Lake
from headrace.lineage.graph import Node, upstream
from headrace.log import Log
from headrace.projects.project import Project, load_project
from headrace.registry import Registry
from headrace.registry.bundle import MANIFEST, Manifest
from headrace.serving.prediction import Prediction
from headrace.serving.release import Release, history
from headrace.training.report import read_report

__all__ = ["FeatureWhy", "MadeFrom", "VersionWhy", "ViewWhy", "Why", "why"]

_EVENTS = 20
_SOURCE = "source.tar.gz"


class FeatureWhy(Struct, frozen=True):
    """One feature of the prediction.

    Attributes:
        name: `view__feature`.
        served: the value that the model saw; None: missing.
        again: the value that training would have given the model, made by the offline path from exactly what
            the online one had read.
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
        parameters: of the fit.
        gate: whether it passed the gate.
    """

    run: str
    code: str
    table: str
    snapshot: int
    rows: int
    pinned: bool
    inputs: dict[str, int]
    source: str | None
    parameters: dict[str, Any]
    gate: bool
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
    found: PredictionPlace
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
    log = logs.open(settings.log.url)
    try:
        prediction, found = find_prediction(settings, lake, log, prediction_id)
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


class _Made(Struct):
    """One view's part of the answer, before its features are compared.

    Attributes:
        view: the answer's part, without features.
        counted: feature → how many raw events it counts.
        comparable: whether its values could be made again by the code that made the served ones.
    """

    view: ViewWhy
    counted: dict[str, int] = {}
    comparable: bool = True


def _views(
    project: Project, lake: Lake, plan: FeaturePlan, prediction: Prediction, most: int
) -> tuple[ViewWhy, ...]:
    served = _served(plan, prediction)
    edited = views_of_edited_code(project, plan)
    evidence: dict[str, Evidence] = {}
    errors: dict[str, str] = {}
    for stored in plan.stored:
        try:
            evidence[stored.name] = _evidence(project, lake, stored, served, most)
        except (CallError, Unavailable) as error:
            errors[stored.name] = str(error)
    sources = {name: known.source for name, known in evidence.items()}
    (again,) = recompute(project, lake, plan, [served], skip=edited | errors.keys(), sources=sources)
    parts = []
    for view in plan.views:
        if isinstance(view, OnDemandView):
            parts.append(_on_demand(view, served, again))
        elif view.name in errors:
            why_not = ViewWhy(
                view.name, _kind(view), served.positions.get(view.name), (), notes=(errors[view.name],)
            )
            parts.append(_Made(why_not, comparable=False))
        else:
            parts.append(_stored(view, prediction.version, served, evidence[view.name], view.name in edited))
    return tuple(
        msgspec.structs.replace(
            part.view,
            features=tuple(
                _feature(feature.column, prediction, again.seen.get(feature.column), part, feature.name)
                for feature in plan.features
                if feature.view == part.view.name
            ),
        )
        for part in parts
    )


def _served(plan: FeaturePlan, prediction: Prediction) -> ServedPrediction:
    """The prediction as `recompute` takes it."""
    return ServedPrediction(
        prediction.id,
        micros(prediction.at),
        prediction.entity,
        {},
        msgspec.convert(prediction.positions, dict[str, StreamPosition | RowPosition], strict=False),
        decode_fields(plan.request, prediction.request),
    )


def _evidence(project: Project, lake: Lake, view: StoredView, served: ServedPrediction, most: int) -> Evidence:
    position = served.positions.get(view.name)
    if isinstance(view, AsOfView) and isinstance(position, RowPosition):
        return as_of(project, lake, view, served.keys, position)
    if not isinstance(view, AsOfView) and isinstance(position, StreamPosition):
        return windowed(project, lake, view, served.keys, served.at, position, most)
    raise CallError(f"the prediction carries no position of view {view.name!r}")


def _stored(
    view: StoredView, version: int, served: ServedPrediction, evidence: Evidence, edited: bool
) -> _Made:
    notes = evidence.notes
    if edited and isinstance(view, WindowedView):
        note = f"{view.rowwise}() was edited since version {version} was trained"
        notes += (f"code changed: {note}. The events are shown as it sees them now; nothing is compared",)
    position = served.positions.get(view.name)
    return _Made(
        ViewWhy(
            view.name, _kind(view), position, (), evidence.events, evidence.total, evidence.row, notes=notes
        ),
        evidence.counted,
        not edited,
    )


def _kind(view: StoredView) -> str:
    return "as_of" if isinstance(view, AsOfView) else "windowed"


def _on_demand(view: OnDemandView, served: ServedPrediction, again: Recomputed) -> _Made:
    """An on-demand view, with its inputs from the request and from the other views' recomputed features."""
    inputs: dict[str, Any] = {}
    lacking = []
    for source in view.inputs:
        column = source.name if source.view is None else f"{source.view}__{source.name}"
        values = served.request if source.view is None else again.features
        if column not in values:
            lacking.append(column)
        inputs[column] = values.get(column)
    named = {one.name: inputs[f"{one.view}__{one.name}"] for one in view.inputs if one.view is not None}
    part = ViewWhy(view.name, "on_demand", None, (), inputs=inputs | named)
    if not lacking and view.name not in again.failures:
        return _Made(part)
    note = f"{', '.join(lacking)} could not be made again" if lacking else again.failures[view.name]
    return _Made(msgspec.structs.replace(part, notes=(note,)), comparable=False)


def _feature(column: str, prediction: Prediction, again: Any, part: _Made, name: str) -> FeatureWhy:
    served = prediction.features.get(column)
    if not part.comparable:
        return FeatureWhy(column, served, None, None)
    return FeatureWhy(column, served, again, served == again, part.counted.get(name))


def _release(log: Log, prediction: Prediction, notes: list[str]) -> Release | None:
    for release in history(log, prediction.model):
        if release.id == prediction.release:
            return release
    notes.append(f"release {prediction.release} is not on the log any more")
    return None


def _version(
    versions: Registry, prediction: Prediction, plan: FeaturePlan, made_from: MadeFrom, notes: list[str]
) -> VersionWhy:
    model, number = prediction.model, prediction.version
    try:
        one = versions.version(model, number)
    except (CallError, Refused, Unavailable) as error:
        notes.append(f"MLflow could not be asked: {error.what}")
        return VersionWhy(model, number, None, None, (), {}, made_from, plan.digest)
    return VersionWhy(model, number, one.run_id, one.created, one.aliases, one.metrics, made_from, plan.digest)


def _made_from(lake: Lake, bundle: Path) -> MadeFrom:
    report = read_report(bundle)
    manifest = msgspec.json.decode((bundle / MANIFEST).read_bytes(), type=Manifest)
    source = manifest.files.get(_SOURCE)
    rows = report.training_set
    tagged = lake.table(rows.table).tags().values() if lake.table_exists(rows.table) else ()
    return MadeFrom(
        report.run,
        report.code,
        rows.table,
        rows.snapshot,
        rows.rows,
        rows.snapshot in tagged,
        rows.inputs,
        None if source is None else f"sha256:{source}",
        report.parameters,
        report.gate.passed,
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
