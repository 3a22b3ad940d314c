"""Finds the columns of tables that each feature is computed from, for lineage."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.features.plan.plan import FeaturePlan
from headrace.features.plan.views import AsOfView, WindowedView

__all__ = ["source_columns"]


def source_columns(plan: FeaturePlan, labels: str, columns: Iterable[str]) -> dict[str, list[str]]:
    """Column of a training set → the columns, each `table.column`, that it is computed from.

    Args:
        plan: the features.
        labels: the table of the labels, which the entity keys, time, target and request fields come from.
        columns: the columns of the training set.
    """
    features = {feature.column: _sources(plan, feature.view, feature.name, labels) for feature in plan.features}
    return {column: features.get(column) or [f"{labels}.{column}"] for column in columns}


def _sources(plan: FeaturePlan, view_name: str, feature: str, labels: str) -> list[str]:
    view = plan.view(view_name)
    if isinstance(view, AsOfView):
        return [f"{view.table}.{view.column(feature)}"]
    if isinstance(view, WindowedView):
        columns = {aggregation.name: aggregation.column for aggregation in view.aggregations}
        return [f"{view.table}.{columns[feature]}"]
    sources: list[str] = []
    for source in view.inputs:
        if source.view is None:
            sources.append(f"{labels}.{source.name}")
        else:
            sources += _sources(plan, source.view, source.name, labels)
    return list(dict.fromkeys(sources))
