"""`online`: fills the online store up to the tables' pointers. From there on ingest keeps it up to date.

It fills the views of the project's plans, and those of the released versions, whose plans may be older ones.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Self

import msgspec
from msgspec.structs import replace

from headrace.config.settings import Settings
from headrace.flows.build.pointers import FEATURES, ONLINE
from headrace.flows.build.project_code import ProjectCode
from headrace.flows.build.reasons import StaleReason
from headrace.flows.build.released import find_released_plans
from headrace.flows.build.stage import Stage, StageResult
from headrace.kernel.errors import HeadraceError
from headrace.kernel.position import SnapshotPosition

if TYPE_CHECKING:
    from headrace.features.online import OnlineStore
    from headrace.features.online.backfill import FillResult
    from headrace.features.plan import FeaturePlan, StoredView
    from headrace.flows.build.context import BuildContext
    from headrace.flows.build.preview import Preview

__all__ = ["OnlineStage"]

_logger = logging.getLogger(__name__)


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
            released, notes = _fill_released(context, store, {view.digest for view in fills})
        context.pointers.write(self.out, {view.view: msgspec.to_builtins(view.position) for view in fills})
        counts = {view.view: view.entities for view in fills if view.rows}
        counts |= {
            f"{view.view} of {version}": view.entities
            for version, views in released.items()
            for view in views
            if view.rows
        }
        fills += [view for views in released.values() for view in views]
        words = ", ".join(f"{view} {_count(entities)}" for view, entities in counts.items())
        left_out = dict.fromkeys(view.left_out for view in fills if view.left_out)
        words = "; ".join([words, *left_out] if words else [])
        return StageResult("; ".join([words or "was up to date", *notes]), sum(view.rows for view in fills))

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
            if any(_is_lost(store, view, snapshots) for plan in plans for view in plan.stored):
                return True
            own = {view.digest for plan in plans for view in plan.stored}
            try:
                released = _released_views(context, own)
            except HeadraceError:  # `run` names it
                return False
            return any(_is_behind(context, store, view) for _, plan in released for view in plan.stored)

    def stale_reasons(self, preview: Preview) -> list[StaleReason]:
        """See Stage. A new version of Headrace may store the values in another form."""
        from headrace.features.online import filled_views

        reasons = super().stale_reasons(preview)
        if reasons:
            return reasons
        context = preview.context
        try:
            plans = [context.plan(name) for name in context.code.models]
        except (FileNotFoundError, msgspec.DecodeError):
            return [StaleReason("state", "a plan was never compiled")]
        filled = {entry.partition(" ")[0] for entry in filled_views(context.settings)}
        empty = dict.fromkeys(view.name for plan in plans for view in plan.stored if view.digest not in filled)
        return [StaleReason("state", f"the online store has no values of view {name}") for name in empty]


def _released_views(context: BuildContext, own: Collection[str]) -> list[tuple[str, FeaturePlan]]:
    """Each stored view of a released version that is not among those with these digests: `model@version`, and
    its plan with this view alone.

    Raises:
        HeadraceError: as find_released_plans.
    """
    views: dict[str, tuple[str, FeaturePlan]] = {}
    for version, plan in find_released_plans(context.workspace).items():
        for view in plan.stored:
            if view.digest not in own:
                views.setdefault(view.digest, (version, replace(plan, views=(view,), features=())))
    return list(views.values())


def _fill_released(
    context: BuildContext, store: OnlineStore, filled: Collection[str]
) -> tuple[dict[str, list[FillResult]], list[str]]:
    """Fills the views of released versions that are not among those with these digests.

    Returns:
        `model@version` → its views that were filled; and why others keep what they have: such a view must not
        stop the build of the versions that replace it.
    """
    from headrace.features.online.backfill import fill

    fills: dict[str, list[FillResult]] = {}
    notes: list[str] = []
    project = context.project()
    try:
        released = _released_views(context, filled)
    except HeadraceError as error:
        return {}, [f"the views of released versions were not looked at: {error.what}"]
    for version, plan in released:
        (view,) = plan.stored
        try:
            snapshots = {view.table: context.snapshot(view.table)} if view.table in context.code.tables else {}
            fills.setdefault(version, []).extend(fill(project, context.lake, plan, store, at=snapshots))
        except HeadraceError as error:
            notes.append(f"view {view.name} of {version} was not filled: {error.what}")
    for note in notes:
        _logger.warning("%s", note)
    return fills, notes


def _is_lost(store: OnlineStore, view: StoredView, snapshots: Mapping[str, int]) -> bool:
    """Whether the view is empty, broken, or not at the snapshot that is named for it."""
    from headrace.features.plan import WindowedView

    position = store.position(view)
    if isinstance(view, WindowedView):
        return position is None or bool(store.count_broken(view))
    return not isinstance(position, SnapshotPosition) or position.snapshot_id != snapshots.get(
        view.name, position.snapshot_id
    )


def _is_behind(context: BuildContext, store: OnlineStore, view: StoredView) -> bool:
    """Whether a fill would change the view of a released version."""
    from headrace.features.offline.rowwise import codes_of, is_of_other_code
    from headrace.features.plan import WindowedView

    position = store.position(view)
    if isinstance(view, WindowedView):
        is_empty = position is None or bool(store.count_broken(view))
        return is_empty and not is_of_other_code(view, codes_of(context.project()))
    pointer = context.pointers.read(context.code.pointer_of(view.table))
    if pointer is None or view.table not in context.code.tables:
        return position is None
    return not isinstance(position, SnapshotPosition) or position.snapshot_id != pointer["snapshot"]


def _count(entities: int) -> str:
    return "1 entity" if entities == 1 else f"{entities:,} entities"
