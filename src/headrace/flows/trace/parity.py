"""check parity: compares served features with the same features recomputed from the lake."""

from __future__ import annotations

from headrace.features.checks.parity import ParityReport, check_parity
from headrace.flows.trace.served import TOGETHER, read_served
from headrace.workspace import Workspace

__all__ = ["parity"]


def parity(workspace: Workspace, model: str | None = None, *, limit: int = 1_000) -> dict[str, ParityReport]:
    """Compares logged predictions. Returns `model@version` → the parity report of its newest predictions.

    Args:
        workspace: the project to work on.
        model: only this model's predictions.
        limit: the greatest number of predictions; the newest are compared.

    Raises:
        CallError: no prediction has been ingested yet.
        Refused: a version's bundle was changed.
    """
    project, lake = workspace.project, workspace.lake
    reports: dict[str, ParityReport] = {}
    for version, plan, served in read_served(workspace, model, limit, together=TOGETHER):
        report = check_parity(project, lake, plan, served)
        reports[version] = reports[version].join(report) if version in reports else report
    return reports
