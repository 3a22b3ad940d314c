"""The plans of released versions. They may be other ones than those of the last build."""

from __future__ import annotations

from headrace.features.plan import FeaturePlan, decode_plan
from headrace.serving import release as releases
from headrace.training.files import PLAN
from headrace.workspace import Workspace

__all__ = ["find_released_plans"]


def find_released_plans(workspace: Workspace) -> dict[str, FeaturePlan]:
    """`model@version` → its plan, for each version in a model's release in force, and in the release that a
    rollback would restore. A model that is served as it is has no plan.

    Raises:
        HeadraceError: the log or the registry cannot be reached, or a bundle cannot be read.
    """
    plans = {}
    for model, history in releases.read_histories(workspace.log).items():
        named = [history[-1], releases.find_restored(history)]
        for version in sorted(
            {arm.version for release in named if release is not None for arm in release.arms}
        ):
            file = workspace.registry.bundle(model, version) / PLAN
            if file.is_file():
                plans[f"{model}@{version}"] = decode_plan(file.read_bytes())
    return plans
