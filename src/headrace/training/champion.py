"""The champion's own features for the rows that a new version is tested on.

A feature may keep its name and mean something else: another window, another function. The champion learnt
from what its own plan says, and is tried on that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec
import polars as pl

from headrace.features.offline.point_in_time import join
from headrace.features.plan import FeaturePlan, OnDemandView, View, WindowedView
from headrace.features.values.on_demand import OnDemandError

__all__ = ["as_champion_reads"]


def as_champion_reads(
    champion: FeaturePlan,
    plan: FeaturePlan,
    test: pl.DataFrame,
    tables: Collection[str],
    read: Callable[[str], pl.LazyFrame],
) -> pl.DataFrame:
    """The test rows with the champion's features as its own plan makes them.

    Args:
        champion: its plan.
        plan: the new version's, by which the test rows were made.
        test: the test rows, with the keys, `event_timestamp` and what a request carries.
        tables: those that `read` can read.
        read: from the name of a table to its rows.

    Returns:
        The rows. Features that both plans define alike are as they were; those that the champion's plan defines
        otherwise are made by it, or left out where that is not possible: a table or a column is not there, or
        the function fails. The code of a rowwise table is the present one for both.
    """
    now = {view.name: _definition(view) for view in plan.views}
    other = {view.name for view in champion.views if view.name in now and now[view.name] != _definition(view)}
    other |= {view.name for view in champion.on_demand if other & {one.view for one in view.inputs}}
    redefined = [one for one in champion.features if one.view in other]
    if not redefined:
        return test
    names = {one.view for one in redefined}
    names |= {one.view for view in champion.on_demand if view.name in names for one in view.inputs if one.view}
    views = tuple(view for view in champion.views if view.name in names)
    stored = [view for view in views if not isinstance(view, OnDemandView)]
    keys = {key for view in stored for key in view.keys}
    asked = {
        one.name for view in views if isinstance(view, OnDemandView) for one in view.inputs if not one.view
    }
    own = msgspec.structs.replace(
        champion,
        views=views,
        features=tuple(redefined),
        entities=tuple(one for one in champion.entities if one.join_key in keys),
        request=tuple(one for one in champion.request if one.name in asked),
    )
    without = test.drop(one.column for one in redefined if one.column in test.columns)
    if not {view.table for view in stored} <= set(tables) or not keys | asked <= set(test.columns):
        return without
    try:
        return join(without, own, read)
    except OnDemandError:
        return without


def _definition(view: View) -> View:
    return msgspec.structs.replace(view, code="") if isinstance(view, WindowedView) else view
