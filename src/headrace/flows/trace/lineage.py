"""lineage: the recorded origins of an endpoint, a model's version or a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.kernel.errors import CallError
from headrace.kernel.run import DatasetKind
from headrace.lineage.graph import Node, upstream
from headrace.workspace import Workspace

__all__ = ["find_origin", "lineage", "model_facts"]

_MODEL = ("versions", "metrics", "params")


def lineage(workspace: Workspace, name: str) -> Node:
    """The dataset of this name, the run that wrote it, the inputs of that run, and so on to files and topics.

    Args:
        workspace: the project to work on.
        name: a model that is released (its endpoint), a version of it (`churn@2`), or a table.

    Raises:
        CallError: no run that wrote it has been recorded, or the version does not exist.
    """
    origin = find_origin(workspace, name)
    if origin is not None:
        return origin
    model, at, version = name.partition("@")
    if at:
        workspace.registry.version(model, version)  # if it does not exist, the error lists those that do
    raise CallError(
        f"no run that wrote {name!r} has been recorded",
        where=str(workspace.lineage.path),
        remedy="Name a released model, a version of it such as churn@1, or a table. headrace lineage lists the"
        " newest runs and what they wrote.",
    )


def find_origin(workspace: Workspace, name: str) -> Node | None:
    """As `lineage`; None: no run that wrote it has been recorded."""
    kinds: tuple[DatasetKind, ...] = ("model",) if "@" in name else ("endpoint", "table")
    for kind in kinds:
        if workspace.lineage.producer(kind, name) is not None:
            return upstream(workspace.lineage, kind, name)
    return None


def model_facts(node: Node) -> list[tuple[str, Mapping[str, Any]]]:
    """`versions`, `metrics` and `params` of an endpoint or a model, as the run that wrote it recorded them."""
    facts = node.dataset.facts
    for output in () if node.run is None else node.run.outputs:
        if (output.kind, output.name) == (node.dataset.kind, node.dataset.name):
            facts = output.facts
    return [(title, facts[title]) for title in _MODEL if facts.get(title)]
