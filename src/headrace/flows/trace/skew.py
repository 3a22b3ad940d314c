"""check skew: compares served features with those that a training set made now has for the same moments."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from headrace.features.checks.skew import SkewCheck, SkewReport
from headrace.flows.trace.served import TOGETHER, read_served
from headrace.kernel.errors import CallError
from headrace.kernel.properties import CODE
from headrace.lake import Lake
from headrace.training.training_set import table_reader, visible_snapshots
from headrace.workspace import Workspace

__all__ = ["skew"]


def skew(workspace: Workspace, model: str | None = None, *, limit: int = 1_000) -> dict[str, SkewReport]:
    """Compares logged predictions. Returns `model@version` → the skew report of its newest predictions.

    Args:
        workspace: the project to work on.
        model: only this model's predictions.
        limit: the greatest number of predictions; the newest are compared.

    Raises:
        CallError: no prediction has been ingested yet, or a table of the plan has no rows.
        Refused: a version's bundle was changed.
    """
    project, lake = workspace.project, workspace.lake
    checks: dict[str, SkewCheck] = {}
    for version, plan, served in read_served(workspace, model, limit, together=TOGETHER):
        if version not in checks:
            snapshots = visible_snapshots(workspace.visible, {view.table for view in plan.stored})
            read = table_reader(project, lake, snapshots)
            codes = {view.table: _codes(lake, view.table) for view in plan.as_of}
            checks[version] = SkewCheck(project, lake, plan, read, codes)
        checks[version].add(served)
    return {version: check.report() for version, check in checks.items()}


def _codes(lake: Lake, name: str) -> Callable[[int], str | None]:
    """A function that returns the code that made a snapshot of the table; of the newest one for 0."""
    table = lake.table(name)

    @cache
    def code(snapshot: int) -> str | None:
        try:
            version = table.snapshot(snapshot) if snapshot else table.current_snapshot()
        except CallError:  # it has expired
            return None
        return None if version is None else version.summary.get(CODE)

    return code
