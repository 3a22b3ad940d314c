"""Views in the online store: which ones are still needed, and dropping the others."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

from headrace.features.applied.registry import is_registry_as_applied
from headrace.features.plan import decode_plan
from headrace.flows.build import hold_build_lock
from headrace.flows.build.pointers import FEATURES, Pointers
from headrace.flows.build.released import find_released_plans
from headrace.kernel.errors import Unavailable
from headrace.workspace import Workspace

__all__ = ["drop_unused_views"]

_logger = logging.getLogger(__name__)


def drop_unused_views(workspace: Workspace) -> list[str]:
    """Drops the views that no release names. Returns their digests, sorted.

    It keeps the views of each model's release in force, of the release that a rollback restores, of the last
    build's plans, and those that the last build declared to Feast. Nothing is dropped while a build runs, or
    after stock Feast has changed its registry: the next build records which views are declared.

    Raises:
        HeadraceError: a service cannot be reached or a bundle cannot be read; nothing was dropped.
    """
    if not _find_unused_views(workspace):
        return []
    with ExitStack() as stack:
        try:
            stack.enter_context(hold_build_lock(workspace.settings))
        except Unavailable:  # a build is running
            return []
        unused = _find_unused_views(workspace)  # a build may have ended meanwhile
        for digest in unused:
            workspace.online.drop(digest)
            _logger.info("view %s was dropped: no release names it", digest)
    return unused


def _find_unused_views(workspace: Workspace) -> list[str]:
    pointers = Pointers(workspace.settings.root)
    if "views" not in (pointers.read(FEATURES) or {}) or not is_registry_as_applied(workspace.settings):
        return []
    # The positions also name views that another version of Headrace stored under other digests.
    stored = {*workspace.online.positions(), *(view.digest for view in workspace.online.views())}
    # Read after the store: a build writes them before it fills their views.
    declared = pointers.read(FEATURES) or {}
    needed = {*declared["views"].values(), *_plan_views(workspace, declared["plans"])}
    if not needed.issuperset(stored):
        plans = find_released_plans(workspace).values()
        needed.update(view.digest for plan in plans for view in plan.stored)
    return sorted(stored - needed)


def _plan_views(workspace: Workspace, models: Iterable[str]) -> Iterator[str]:
    """The digests of the views in the last build's plans."""
    for model in models:
        plan = decode_plan((workspace.settings.root / Pointers.path("plans", model)).read_bytes())
        yield from (view.digest for view in plan.stored)
