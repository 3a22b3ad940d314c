"""why: traces a prediction back to its raw events, and recomputes its features to prove that they made it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from headrace import lineage
from headrace.features.checks.recompute import Recomputed, ServedPrediction, recompute, views_of_edited_code
from headrace.features.online import RowPosition, ServedPosition, StreamPosition
from headrace.features.plan import AsOfView, FeaturePlan, OnDemandView, StoredView, WindowedView, decode_plan
from headrace.features.values.conversion import decode_fields
from headrace.flows.models.predictions import PredictionPlace, find_prediction
from headrace.flows.trace.evidence import Evidence, RawEvent, Row, find_events, find_row
from headrace.kernel.counts import plural
from headrace.kernel.errors import CallError, HeadraceError, Refused, Unavailable
from headrace.kernel.html import LIMIT, html_table
from headrace.kernel.pairs import join_pairs
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.time import micros
from headrace.lake import Lake
from headrace.lineage.graph import Node, upstream
from headrace.log import Log
from headrace.projects.project import Project
from headrace.registry import Registry
from headrace.registry.bundle import MANIFEST, Manifest
from headrace.serving.prediction import Prediction
from headrace.serving.release import Release, history
from headrace.training.files import PLAN
from headrace.training.report import read_report
from headrace.workspace import Workspace

__all__ = ["FeatureWhy", "VersionOrigin", "VersionWhy", "ViewWhy", "Why", "why"]

_EVENTS = 20
_SOURCE = "source.tar.gz"


class FeatureWhy(Struct, frozen=True):
    """One feature of the prediction.

    Attributes:
        name: `view__feature`.
        served: the value that the model saw; None: missing.
        recomputed: the value that training would have given the model, computed by the offline path from
            exactly the data that the online path had read.
        equal: whether the two are the same; None if it could not be recomputed.
        events: how many raw events it counts; None if it is not a windowed feature.
    """

    name: str
    served: Any
    recomputed: Any
    equal: bool | None
    events: int | None = None


class ViewWhy(Struct, frozen=True):
    """The features of one view, and what they were computed from.

    Attributes:
        name: the view's name.
        kind: `windowed`, `as_of` or `on_demand`.
        position: the position of the served values; None for an on-demand view.
        features: the features that the model uses.
        events: the newest raw events of a windowed view, the newest first.
        total: how many raw events there are.
        row: the row of an as-of view's table.
        inputs: the arguments of an on-demand view's function.
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


class VersionOrigin(Struct, frozen=True):
    """What a version was trained from.

    Attributes:
        run: the id of the run that trained it.
        code: the fingerprint of the model's declaration and of the project's code that it uses.
        commit: the git commit of the training, with `-dirty` at its end if files differed from it; None: the
            project was not in a git checkout.
        table, snapshot, rows: its training set.
        pinned: whether that snapshot is tagged, so that it never expires.
        inputs: table → the snapshot that the training set was made from.
        source: `sha256:` of the archive of the project's source in the bundle; None: the bundle has none.
        parameters: the parameters of the fit.
        gate: whether the version passed the gate.
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
        model, version: the model's name and the version's number.
        mlflow_run: the MLflow run that has its files; None if MLflow could not be reached.
        created: when it was registered.
        aliases: the aliases that it has now.
        metrics: the metrics on the held-out test part.
        origin: what it was trained from, according to its bundle.
        plan: the digest of its feature plan.
    """

    model: str
    version: int
    mlflow_run: str | None
    created: datetime | None
    aliases: tuple[str, ...]
    metrics: dict[str, float]
    origin: VersionOrigin
    plan: str


class Why(Struct, frozen=True):
    """A prediction and everything that it was made from.

    Attributes:
        prediction: as it was logged.
        found_in: `table`, `log` or `spool`.
        release: the release that was in force; None if the log no longer has it.
        views: for each view, what its features were computed from.
        equal: whether every recomputed feature equals the served one.
        version: the version that answered.
        lineage: the version's lineage up to the topics, as far as runs were recorded.
        notes: what could not be found, and why.
    """

    prediction: Prediction
    found_in: PredictionPlace
    release: Release | None
    views: tuple[ViewWhy, ...]
    equal: bool
    version: VersionWhy
    lineage: Node
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        features = plural(sum(len(view.features) for view in self.views), "feature")
        return f"<why of prediction {self.prediction.id}: {features}; {self._summary}>"

    def _repr_html_(self) -> str:
        """The answer for a notebook: each feature as it was served and recomputed, and the events behind it."""
        rows, notes = [], list(self.notes)
        for view in self.views:
            notes += [f"{view.name}: {note}" for note in view.notes]
            for feature in view.features:
                is_equal = {True: "equal", False: "differs", None: "not recomputed"}[feature.equal]
                rows.append((feature.name, feature.served, feature.recomputed, is_equal, feature.events))
        events = [
            (
                view.name,
                f"{event.partition}:{event.offset}",
                f"{event.time:%F %T}",
                join_pairs(event.values or {}),
            )
            for view in self.views
            for event in view.events
        ]
        columns = ("feature", "served", "recomputed", "", "events")
        features = html_table(self._summary, columns, rows, notes=notes, limit=LIMIT // 2)
        names = ("view", "offset", "happened, UTC", "as the view reads it")
        return features + html_table("The newest raw events", names, events, limit=LIMIT // 2)

    @property
    def _summary(self) -> str:
        prediction = self.prediction
        return (
            f"{prediction.model}@{prediction.version} answered {prediction.value} at {prediction.at:%F %T} UTC;"
            f" {'every recomputed feature is equal' if self.equal else 'not every feature is equal'}"
        )


def why(workspace: Workspace, prediction_id: str, *, events: int = _EVENTS) -> Why:
    """Traces a prediction: each feature with its raw events, recomputed and compared; the version with its
    training run, snapshots and code; the lineage up to the topics.

    Args:
        workspace: the project to work on.
        prediction_id: the `id` of an answer.
        events: how many raw events are listed for each view.

    Raises:
        CallError: the prediction does not exist, or its version no longer exists; or an MLflow model made it,
            which reads no features.
        Unavailable: the events behind it are not ingested yet, or a service cannot be reached.
        Refused: the version's bundle was changed.
    """
    project, lake = workspace.project, workspace.lake
    prediction, found_in = find_prediction(workspace, prediction_id)
    if not prediction.plan:
        raise CallError(
            f"version {prediction.version} of the MLflow model {prediction.model!r} predicted from the request"
            " alone: no feature of this project was read",
            where=f"prediction {prediction.id}",
            remedy="Table headrace_predictions has its request and its value.",
        )
    bundle = workspace.registry.bundle(prediction.model, prediction.version)
    plan = decode_plan((bundle / PLAN).read_bytes())
    views = _views(project, lake, plan, prediction, events)
    notes: list[str] = []
    if prediction.error is not None:
        notes.append(f"the version failed to answer ({prediction.error}), so no feature was logged")
    release = _release(workspace.log, prediction, notes)
    origin = _version_origin(lake, bundle)
    version = _version(workspace.registry, prediction, plan, origin, notes)
    graph = _graph(workspace.lineage, prediction, origin)
    equal = all(feature.equal is True for view in views for feature in view.features)
    return Why(prediction, found_in, release, views, equal, version, graph, tuple(notes))


class _ViewPart(Struct):
    """One view's part of the answer, before its features are compared.

    Attributes:
        view: the part, without features.
        counts: feature → how many raw events it counts.
        comparable: whether its values could be recomputed by the code that made the served ones.
    """

    view: ViewWhy
    counts: dict[str, int] = {}
    comparable: bool = True


def _views(
    project: Project, lake: Lake, plan: FeaturePlan, prediction: Prediction, limit: int
) -> tuple[ViewWhy, ...]:
    served = _as_served(plan, prediction)
    edited = views_of_edited_code(project, plan)
    evidence: dict[str, Evidence] = {}
    errors: dict[str, str] = {}
    for stored in plan.stored:
        try:
            evidence[stored.name] = _evidence(project, lake, stored, served, limit)
        except HeadraceError as error:
            errors[stored.name] = str(error)
    sources = {name: view_evidence.source for name, view_evidence in evidence.items()}
    (recomputed,) = recompute(project, lake, plan, [served], skip=edited | errors.keys(), sources=sources)
    parts = []
    for view in plan.views:
        if isinstance(view, OnDemandView):
            parts.append(_part_of_on_demand(view, served, recomputed))
        elif view.name in errors:
            position = served.positions.get(view.name)
            part = ViewWhy(view.name, _kind(view), position, (), notes=(errors[view.name],))
            parts.append(_ViewPart(part, comparable=False))
        else:
            parts.append(
                _part_of_stored(view, prediction.version, served, evidence[view.name], view.name in edited)
            )
    return tuple(
        msgspec.structs.replace(
            part.view,
            features=tuple(
                _feature(feature.column, prediction, recomputed.seen.get(feature.column), part, feature.name)
                for feature in plan.features
                if feature.view == part.view.name
            ),
        )
        for part in parts
    )


def _as_served(plan: FeaturePlan, prediction: Prediction) -> ServedPrediction:
    """The prediction in the form that `recompute` accepts."""
    return ServedPrediction(
        prediction.id,
        micros(prediction.at),
        prediction.entity,
        {},
        msgspec.convert(prediction.positions, dict[str, StreamPosition | RowPosition], strict=False),
        decode_fields(plan.request, prediction.request),
    )


def _evidence(project: Project, lake: Lake, view: StoredView, served: ServedPrediction, limit: int) -> Evidence:
    position = served.positions.get(view.name)
    if isinstance(view, AsOfView) and isinstance(position, RowPosition):
        return find_row(project, lake, view, served.keys, position)
    if not isinstance(view, AsOfView) and isinstance(position, StreamPosition):
        return find_events(project, lake, view, served.keys, served.at, position, limit)
    raise CallError(f"the prediction has no position of view {view.name!r}")


def _part_of_stored(
    view: StoredView, version: int, served: ServedPrediction, evidence: Evidence, edited: bool
) -> _ViewPart:
    notes = evidence.notes
    if edited and isinstance(view, WindowedView):
        note = f"{view.rowwise}() was edited since version {version} was trained"
        notes += (
            f"code changed: {note}. The events are shown as the function reads them now; nothing is compared",
        )
    position = served.positions.get(view.name)
    return _ViewPart(
        ViewWhy(
            view.name, _kind(view), position, (), evidence.events, evidence.total, evidence.row, notes=notes
        ),
        evidence.counts,
        not edited,
    )


def _kind(view: StoredView) -> str:
    return "as_of" if isinstance(view, AsOfView) else "windowed"


def _part_of_on_demand(view: OnDemandView, served: ServedPrediction, recomputed: Recomputed) -> _ViewPart:
    """An on-demand view, with its inputs from the request and from the other views' recomputed features."""
    inputs: dict[str, Any] = {}
    missing = []
    for source in view.inputs:
        column = source.name if source.view is None else f"{source.view}__{source.name}"
        values = served.request if source.view is None else recomputed.features
        if column not in values:
            missing.append(column)
        inputs[column] = values.get(column)
    by_name = {
        source.name: inputs[f"{source.view}__{source.name}"]
        for source in view.inputs
        if source.view is not None
    }
    part = ViewWhy(view.name, "on_demand", None, (), inputs=inputs | by_name)
    if not missing and view.name not in recomputed.failures:
        return _ViewPart(part)
    note = f"{', '.join(missing)} could not be recomputed" if missing else recomputed.failures[view.name]
    return _ViewPart(msgspec.structs.replace(part, notes=(note,)), comparable=False)


def _feature(column: str, prediction: Prediction, recomputed: Any, part: _ViewPart, name: str) -> FeatureWhy:
    served = prediction.features.get(column)
    is_given = column in prediction.request  # by the client
    if not part.comparable or is_given or column not in prediction.features:
        return FeatureWhy(column, served, None, None)
    return FeatureWhy(column, served, recomputed, served == recomputed, part.counts.get(name))


def _release(log: Log, prediction: Prediction, notes: list[str]) -> Release | None:
    for release in history(log, prediction.model):
        if release.id == prediction.release:
            return release
    notes.append(f"release {prediction.release} is no longer on the log")
    return None


def _version(
    versions: Registry, prediction: Prediction, plan: FeaturePlan, origin: VersionOrigin, notes: list[str]
) -> VersionWhy:
    model, number = prediction.model, prediction.version
    try:
        version = versions.version(model, number)
    except (CallError, Refused, Unavailable) as error:
        notes.append(f"MLflow could not be reached: {error.what}")
        return VersionWhy(model, number, None, None, (), {}, origin, plan.digest)
    return VersionWhy(
        model, number, version.run_id, version.created, version.aliases, version.metrics, origin, plan.digest
    )


def _version_origin(lake: Lake, bundle: Path) -> VersionOrigin:
    report = read_report(bundle)
    manifest = msgspec.json.decode((bundle / MANIFEST).read_bytes(), type=Manifest)
    source = manifest.files.get(_SOURCE)
    rows = report.training_set
    tagged = lake.table(rows.table).tags().values() if lake.table_exists(rows.table) else ()
    return VersionOrigin(
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


def _graph(store: lineage.Store, prediction: Prediction, origin: VersionOrigin) -> Node:
    """The version's lineage. If the run that registered it is not recorded, it begins at its training run."""
    node = upstream(store, "model", f"{prediction.model}@{prediction.version}")
    if node.run is not None:
        return node
    rows = SnapshotPosition(origin.table, origin.snapshot)
    return Node(node.dataset, store.run(origin.run), True, (upstream(store, "table", origin.table, rows),))
