"""The present champion on the rows that a new version is tested on, with the champion's own features.

A feature may keep its name and mean something else in the new plan: another window, another function. The
champion learnt from what its own plan defines, and is evaluated on that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import msgspec
import polars as pl

from headrace.declare.metrics import Task
from headrace.features.offline.point_in_time import join
from headrace.features.plan import FeaturePlan, OnDemandView, View, WindowedView, decode_plan
from headrace.features.values.matrix import Matrix
from headrace.features.values.on_demand import OnDemandError
from headrace.kernel.errors import ProjectError
from headrace.training.evaluation import evaluator_for
from headrace.training.files import MODEL, PLAN
from headrace.training.matrices import matrix_of
from headrace.training.trainers.folder import Predictor, load_model
from headrace.training.trainers.port import Label

__all__ = ["ChampionResult", "evaluate_champion", "recompute_features"]


class ChampionResult(NamedTuple):
    """The champion on the test rows.

    Attributes:
        metrics: None: it could not be evaluated on them, or no champion exists.
        lacking: what it needs and they do not have, sorted.
    """

    metrics: dict[str, float] | None = None
    lacking: list[str] = []  # noqa: RUF012  it is never changed


def evaluate_champion(
    bundle: Path, test: pl.DataFrame, target: str, task: Task, classes: tuple[Label, ...] = ()
) -> ChampionResult:
    """The champion's metrics on these rows, by the columns of its own plan.

    A row that it would refuse to answer counts as one with missing features: both versions are evaluated on
    the same rows.

    Args:
        bundle: the champion's, checked.
        test: the rows, with the features as its own plan makes them (recompute_features).
        target: the label's column.
        task, classes: those of the new version.

    Raises:
        ProjectError: the champion's model has other features than its plan.
    """
    plan = decode_plan((bundle / PLAN).read_bytes())
    columns = [feature.column for feature in plan.features]
    lacking = sorted(set(columns) - set(test.columns))
    if lacking:
        return ChampionResult(None, lacking)
    predictor = load_model(bundle / MODEL)
    if list(predictor.features) != columns:
        raise ProjectError("the model and the plan of the champion do not fit", where=str(bundle))
    other = _other_target(predictor, task, classes)
    if other is not None:
        return ChampionResult(None, [other])
    outputs = predictor.predict(matrix_of(test, Matrix(plan, predictor.meta.encoding)))
    evaluator = evaluator_for(task)
    return ChampionResult(evaluator.evaluate(evaluator.encode(test[target], classes), outputs, classes).metrics)


def _other_target(predictor: Predictor, task: Task, classes: tuple[Label, ...]) -> str | None:
    """The champion's target, where it is of another kind than that of the new version."""
    if predictor.meta.task != task:
        return f"a {predictor.meta.task} target"
    if predictor.meta.classes != classes:
        return f"a target with the classes {', '.join(map(str, predictor.meta.classes))}"
    return None


def recompute_features(
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
        The rows. Features that both plans define alike are unchanged. Those that the champion's plan defines
        otherwise are computed by it, or left out where that is impossible: a table or a column is missing, or
        the function fails. The code of a rowwise table is the present one for both.
    """
    new = {view.name: _definition(view) for view in plan.views}
    changed = {view.name for view in champion.views if view.name in new and new[view.name] != _definition(view)}
    changed |= {view.name for view in champion.on_demand if changed & {field.view for field in view.inputs}}
    redefined = [feature for feature in champion.features if feature.view in changed]
    if not redefined:
        return test
    names = {feature.view for feature in redefined}
    names |= {
        field.view for view in champion.on_demand if view.name in names for field in view.inputs if field.view
    }
    views = tuple(view for view in champion.views if view.name in names)
    stored = [view for view in views if not isinstance(view, OnDemandView)]
    keys = {key for view in stored for key in view.keys}
    requested = {
        field.name
        for view in views
        if isinstance(view, OnDemandView)
        for field in view.inputs
        if not field.view
    }
    reduced = msgspec.structs.replace(
        champion,
        views=views,
        features=tuple(redefined),
        entities=tuple(entity for entity in champion.entities if entity.join_key in keys),
        request=tuple(field for field in champion.request if field.name in requested),
    )
    without = test.drop(feature.column for feature in redefined if feature.column in test.columns)
    if not {view.table for view in stored} <= set(tables) or not keys | requested <= set(test.columns):
        return without
    try:
        return join(without, reduced, read)
    except OnDemandError:
        return without


def _definition(view: View) -> View:
    return msgspec.structs.replace(view, code="") if isinstance(view, WindowedView) else view
