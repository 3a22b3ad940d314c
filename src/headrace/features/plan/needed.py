"""Needed: what must still be looked up and computed for a request that gives a part of the features itself."""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

from headrace.features.plan.plan import FeaturePlan
from headrace.features.plan.views import OnDemandView

__all__ = ["Needed", "find_needed"]


class Needed(NamedTuple):
    """What a request needs besides the features that it gives.

    Attributes:
        views: the names of the views that are looked up or computed.
        fields: the entity keys and request fields that these views read.
    """

    views: frozenset[str]
    fields: frozenset[str]


def find_needed(plan: FeaturePlan, given: Set[str]) -> Needed:
    """The views and fields that a request needs if it gives these columns (`view__feature`) itself.

    A view whose features are all given, or are read by no other view that is needed, is not needed.
    """
    columns = {feature.column for feature in plan.features} - given
    views: set[str] = set()
    fields: set[str] = set()
    for view in reversed(plan.views):  # an on-demand view comes after the views that it reads
        if columns.isdisjoint(f"{view.name}__{field.name}" for field in view.features):
            continue
        views.add(view.name)
        if not isinstance(view, OnDemandView):
            fields.update(view.keys)
            continue
        for source in view.inputs:
            if source.view is None:
                fields.add(source.name)
            elif (column := f"{source.view}__{source.name}") not in given:
                columns.add(column)
    return Needed(frozenset(views), frozenset(fields))
