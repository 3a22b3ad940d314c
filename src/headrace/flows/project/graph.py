"""graph: what a project is made of, from topics and sources to releases, with the freshness of each part.

Feast is loaded only if the code was edited since the last build: else the build's record and the plans that it
wrote say everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

from headrace.features.plan import AsOfView, FeaturePlan, OnDemandView, WindowedView
from headrace.flows.build.context import BuildContext
from headrace.flows.build.project_code import ProjectCode, read_project_code
from headrace.flows.models.deploy_file import read_deploy_file
from headrace.flows.project.status import Status
from headrace.kernel.counts import plural
from headrace.kernel.errors import CallError
from headrace.kernel.time import format_age
from headrace.workspace import Workspace

__all__ = ["GraphEdge", "GraphNode", "NodeKind", "ProjectGraph", "graph"]

NodeKind = Literal["source", "topic", "table", "view", "model", "release", "publication", "deployed"]
_DEPLOY_FILE = "models.yaml"


class GraphNode(Struct, frozen=True):
    """A part of the project.

    Attributes:
        kind, name: what it is; no two nodes have the same.
        note: what it is made with, or how fresh it is: a few words; may be empty.
        is_stale: whether a build would make it again.
    """

    kind: NodeKind
    name: str
    note: str = ""
    is_stale: bool = False

    @property
    def id(self) -> str:
        """Its kind and name."""
        return f"{self.kind} {self.name}"


class GraphEdge(Struct, frozen=True):
    """The node `to` is made from the node `of`; both are ids."""

    of: str
    to: str


class ProjectGraph(Struct, frozen=True):
    """A project as a graph without cycles.

    Attributes:
        project: its name.
        nodes: each after those that it is made from.
        edges: sorted by their nodes.
    """

    project: str
    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]


def graph(workspace: Workspace, state: Status | None = None, *, load_features: bool = True) -> ProjectGraph:
    """The graph of the project.

    Args:
        workspace: the project to work on.
        state: its status, which the notes tell of; None: the graph says only what is declared, and the MLflow
            models that `models.yaml` selects.
        load_features: whether to compile features that were edited since the last build, which loads Feast. If
            not, the graph is that of the last build.

    Raises:
        ProjectError: the project is wrong.
        CallError: no build has recorded the project, and features are not to be loaded; or `models.yaml` is not
            valid.
    """
    context = BuildContext(workspace)
    code = context.code if load_features else _read_recorded(context)
    edges = [*_list_table_edges(code), *_list_publication_edges(code)]
    views: dict[str, GraphNode] = {}
    models = []
    for name, declared in code.models.items():
        plan = _read_plan(context, name, is_recorded=not load_features)
        models.append(_describe_model(name, plan, state))
        edges.append(GraphEdge(f"table {declared.labels}", f"model {name}"))
        for view in plan.views:
            views.setdefault(view.name, GraphNode("view", view.name, _describe_view(view)))
        edges += _list_view_edges(plan)
    releases = [] if state is None else [_describe_release(state, name) for name in code.models]
    nodes = [
        *(GraphNode("source", name, source.path) for name, source in code.sources.items()),
        *(_describe_topic(topic, code, state) for topic in code.topics),
        *(_describe_table(code, name, state) for name in code.tables),
        *views.values(),
        *models,
        *(node for node in releases if node is not None),
        *(GraphNode("publication", name, f"to {p.database}") for name, p in code.publications.items()),
        *(_list_selected(workspace) if state is None else _list_deployed(state)),
    ]
    edges += [GraphEdge(f"model {node.name}", node.id) for node in releases if node is not None]
    topics = {f"table {table}": f"topic {topic}" for topic, table in code.topics.items()}
    return ProjectGraph(workspace.settings.project, tuple(nodes), _resolve(edges, topics, nodes))


def _resolve(
    edges: Iterable[GraphEdge], topics: Mapping[str, str], nodes: Iterable[GraphNode]
) -> tuple[GraphEdge, ...]:
    """The edges, each once, between nodes that are there. A topic and its table are one node."""
    places = {node.id: index for index, node in enumerate(nodes)}
    unique = {GraphEdge(topics.get(edge.of, edge.of), topics.get(edge.to, edge.to)) for edge in edges}
    kept = [edge for edge in unique if edge.of in places and edge.to in places]
    return tuple(sorted(kept, key=lambda edge: (places[edge.of], places[edge.to])))


def _list_table_edges(code: ProjectCode) -> Iterable[GraphEdge]:
    for table, reads in code.reads.items():
        for read in reads:
            yield GraphEdge(f"{'source' if read.kind == 'sources' else 'table'} {read.name}", f"table {table}")


def _list_publication_edges(code: ProjectCode) -> Iterable[GraphEdge]:
    for name, publication in code.publications.items():
        for table in publication.tables:
            yield GraphEdge(f"table {table}", f"publication {name}")


def _list_view_edges(plan: FeaturePlan) -> Iterable[GraphEdge]:
    """From tables to views, from views to those that read them, and from these to the model."""
    for view in plan.views:
        if isinstance(view, OnDemandView):
            for source in view.inputs:
                if source.view is not None:
                    yield GraphEdge(f"view {source.view}", f"view {view.name}")
        else:
            yield GraphEdge(f"table {view.table}", f"view {view.name}")
    for name in dict.fromkeys(feature.view for feature in plan.features):
        yield GraphEdge(f"view {name}", f"model {plan.model}")


def _read_recorded(context: BuildContext) -> ProjectCode:
    code = read_project_code(context.pointers)
    if code is None:
        raise CallError(
            "no build has recorded the project yet",
            remedy="Run headrace build; or draw what is declared: headrace graph",
        )
    return code


def _read_plan(context: BuildContext, model: str, *, is_recorded: bool) -> FeaturePlan:
    """The plan that the last build wrote, if the code is still the same or only the recorded one counts."""
    if (is_recorded or context.recorded_code is not None) and context.plan_file(model).is_file():
        return context.plan(model)
    from headrace.features.feast.compiler import compile  # noqa: A004

    project = context.project()
    return compile(project, project.model(model))


def _describe_view(view: AsOfView | WindowedView | OnDemandView) -> str:
    if isinstance(view, OnDemandView):
        return "from the request" if all(source.view is None for source in view.inputs) else "on demand"
    return "windows" if isinstance(view, WindowedView) else "as of"


def _describe_topic(topic: str, code: ProjectCode, state: Status | None) -> GraphNode:
    name = "" if code.topics[topic] == topic else f"table {code.topics[topic]}"
    fresh = next((entry for entry in state.topics if entry.topic == topic), None) if state else None
    if fresh is None:
        door = _find_door(topic, code) if state is None else ""
        return GraphNode("topic", topic, ", ".join(filter(None, (name, door))))
    lag = "unknown how many" if fresh.lag is None else fresh.describe(fresh.lag) if fresh.lag else ""
    events = plural(fresh.events, "event").removeprefix(f"{fresh.events:,}")
    note = f"{fresh.describe(fresh.events)}{events}" + (f", {lag} not ingested" if lag else "")
    return GraphNode("topic", topic, f"{name}, {note}" if name else note)


def _find_door(topic: str, code: ProjectCode) -> str:
    """The path at which the collector takes the topic's events; empty if it takes none of their format."""
    from headrace.events.formats import FORMATS  # takes longer than the rest of a graph of recorded code

    event_format = FORMATS.get(code.formats.get(topic, ""))
    return f"/events/{topic}" if event_format is not None and event_format.plain_json else ""


def _describe_table(code: ProjectCode, name: str, state: Status | None) -> GraphNode:
    note = "query" if name in code.queries else ""
    if state is None:
        return GraphNode("table", name, note)
    fresh = next((entry for entry in state.tables if entry.table == name), None)
    if fresh is not None and fresh.age is not None:
        note = f"{plural(fresh.rows or 0, 'row')}, {format_age(fresh.age)}"
    else:
        note = "never made" if fresh is None or fresh.is_known else "unknown when made"
    return GraphNode("table", name, note, f"table-{name}" in _stale(state))


def _describe_model(name: str, plan: FeaturePlan, state: Status | None) -> GraphNode:
    door = "" if state else f", /predict/{name}"
    note = f"{plural(len(plan.features), 'feature')}{door}"
    stale = _stale(state) if state else frozenset()
    return GraphNode(
        "model", name, note, bool(stale & {f"train-{name}", f"training_set-{name}", f"inputs-{name}"})
    )


def _list_selected(workspace: Workspace) -> Iterable[GraphNode]:
    """The MLflow models that the project's file for `headrace deploy` selects."""
    file = workspace.settings.root / _DEPLOY_FILE
    for selection in read_deploy_file(file).models if file.is_file() else ():
        version = selection.alias or ("newest version" if selection.version is None else selection.version)
        yield GraphNode("deployed", selection.name, f"MLflow models, {version}")


def _list_deployed(state: Status) -> Iterable[GraphNode]:
    for model in state.deployed:
        note = f"{model.model} {model.version}, Python {model.python}, {model.state}"
        yield GraphNode("deployed", model.name, note)


def _describe_release(state: Status, model: str) -> GraphNode | None:
    release = state.releases.get(model)
    if release is None:
        return None
    arms = ", ".join(
        f"{arm.name} {arm.version}" + ("" if arm.shadow or arm.weight == 1 else f" ({arm.weight:.3g})")
        for arm in release.arms
    )
    return GraphNode("release", model, arms, f"release-{model}" in _stale(state))


def _stale(state: Status) -> frozenset[str]:
    return frozenset(stage.stage for stage in state.stale)
