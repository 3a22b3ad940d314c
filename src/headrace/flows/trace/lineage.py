"""lineage: the recorded origins of an endpoint, a model's version or a table."""

from __future__ import annotations

from headrace.kernel.errors import CallError
from headrace.kernel.run import DatasetKind
from headrace.lineage.graph import Node, upstream
from headrace.workspace import Workspace

__all__ = ["lineage"]


def lineage(workspace: Workspace, name: str) -> Node:
    """The dataset of this name, the run that wrote it, the inputs of that run, and so on to files and topics.

    Args:
        workspace: the project to work on.
        name: a model that is released (its endpoint), a version of it (`churn@2`), or a table.

    Raises:
        CallError: no run that wrote it has been recorded.
    """
    kinds: tuple[DatasetKind, ...] = ("model",) if "@" in name else ("endpoint", "table")
    for kind in kinds:
        if workspace.lineage.producer(kind, name) is not None:
            return upstream(workspace.lineage, kind, name)
    raise CallError(
        f"no run that wrote {name!r} has been recorded",
        where=str(workspace.lineage.path),
        remedy="Name a released model, a version of it such as churn@1, or a table. headrace lineage lists the"
        " newest runs and what they wrote.",
    )
