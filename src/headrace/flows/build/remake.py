"""Makes the tables that a project's pointers name in a lake that has never had them, as after `git clone`.

Where the rows are the same, so is the snapshot (tables.twin): nothing that was made from it is stale. Otherwise
the table gets a new snapshot, and the build continues as if an input had changed.
"""

from __future__ import annotations

from collections.abc import Collection
from time import perf_counter

from headrace.flows.build.context import BuildContext
from headrace.flows.build.report import Progress, StageReport
from headrace.flows.build.stage import LakeStage, Stage
from headrace.kernel.errors import ProjectError
from headrace.kernel.run import run
from headrace.lake.table_state import current_snapshot_ids, find_missing_snapshots
from headrace.tables.twin import TwinSnapshot

__all__ = ["remake_tables"]


def remake_tables(
    context: BuildContext, stages: Collection[Stage], blocked: Collection[str], progress: Progress
) -> list[StageReport]:
    """Makes the tables of these stages that the lake lacks and whose pointers tell the digest of their rows.

    Args:
        context: the context of the build.
        stages: in the order of the build.
        blocked: the names of the stages that cannot run.
        progress: called after each table.

    Returns:
        A report for each table that has the snapshot of its pointer.
    """
    reports = []
    for stage in stages:
        if not isinstance(stage, LakeStage) or stage.name in blocked:
            continue
        pointer = context.pointers.read(stage.out)
        if pointer is None or pointer.get("digest") is None:
            continue
        ((table, snapshot),) = stage.snapshots(pointer).items()
        if current_snapshot_ids(context.lake, [table])[table] is not None or not _has_inputs(context, stage):
            continue
        start = perf_counter()
        with run(f"stage {stage.name}") as stage_run:
            result = stage.remake(context, TwinSnapshot(snapshot, str(pointer["digest"])))
            stage_run.add_facts(what=result.what, rows=result.rows)
        if context.pointers.read(stage.out) == pointer:
            what = "made it for this lake: the rows are those that its pointer names"
            reports.append(StageReport(stage.name, what, result.rows, perf_counter() - start))
            progress(reports[-1])
    return reports


def _has_inputs(context: BuildContext, stage: LakeStage) -> bool:
    """Whether the lake has what the stage's table is made from."""
    try:
        return not find_missing_snapshots(context.lake, stage.find_inputs(context).items())
    except ProjectError:  # an input was never built
        return False
