"""`online`: fills the online store up to the tables' pointers. From there on ingest keeps it up to date."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Self

import msgspec

from headrace.config.settings import Settings
from headrace.flows.build.pointers import FEATURES, ONLINE
from headrace.flows.build.project_code import ProjectCode
from headrace.flows.build.stage import Stage, StageResult
from headrace.kernel.position import SnapshotPosition

if TYPE_CHECKING:
    from headrace.features.online import OnlineStore
    from headrace.features.plan import StoredView
    from headrace.flows.build.context import BuildContext

__all__ = ["OnlineStage"]


class OnlineStage(Stage):
    """Depends on the plans, and on the tables of every feature view."""

    kind = "online"
    drift = "the online state was filled for another commit"

    @classmethod
    def of_project(cls, code: ProjectCode, settings: Settings) -> list[Self]:
        if not code.models:
            return []
        views = sorted({view for model in code.models.values() for view in model.views})
        return [cls(deps=(FEATURES, *(code.pointer_of(view) for view in views)), out=ONLINE)]

    def run(self, context: BuildContext) -> StageResult:
        from headrace.features import online
        from headrace.features.online.backfill import fill

        project = context.project()
        plans = [context.plan(name) for name in project.models]
        # Not the topics' own tables: ingest appends to them meanwhile, and their older snapshots expire.
        tables = {view.table for plan in plans for view in plan.stored} & context.code.tables.keys()
        at = {name: context.snapshot(name) for name in tables}
        with closing(online.open(context.settings)) as store:
            fills = [view for plan in plans for view in fill(project, context.lake, plan, store, at=at)]
        context.pointers.write(self.out, {view.view: msgspec.to_builtins(view.position) for view in fills})
        counts = {view.view: view.entities for view in fills if view.rows}
        words = ", ".join(f"{view} {_count(entities)}" for view, entities in counts.items())
        left_out = dict.fromkeys(view.left_out for view in fills if view.left_out)
        words = "; ".join([words, *left_out]) if words else ""
        return StageResult(words or "was up to date", sum(view.rows for view in fills))

    def is_lost(self, context: BuildContext) -> bool:
        """Whether a view in the online store is empty, broken or not at the last fill's snapshot, or was never
        compiled."""
        from headrace.features import online

        try:
            plans = [context.plan(name) for name in context.code.models]
        except (FileNotFoundError, msgspec.DecodeError):
            return True
        positions = context.pointers.read(self.out) or {}
        snapshots = {
            view: position["snapshot_id"]
            for view, position in positions.items()
            if position.get("table") in context.code.tables
        }
        with closing(online.open(context.settings)) as store:
            return any(_is_lost(store, view, snapshots) for plan in plans for view in plan.stored)


def _is_lost(store: OnlineStore, view: StoredView, snapshots: Mapping[str, int]) -> bool:
    """Whether the view is empty, broken, or not at the snapshot that is named for it."""
    from headrace.features.plan import WindowedView

    position = store.position(view)
    if isinstance(view, WindowedView):
        return position is None or bool(store.count_broken(view))
    return not isinstance(position, SnapshotPosition) or position.snapshot_id != snapshots.get(
        view.name, position.snapshot_id
    )


def _count(entities: int) -> str:
    return "1 entity" if entities == 1 else f"{entities:,} entities"
