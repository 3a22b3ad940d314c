"""Evaluates the present champion on the test rows of a new version, with the features of its own plan.

A feature may keep its name and change its meaning in the new plan: another window, another function. The
champion learnt from features as its own plan defines them, so it is evaluated on those.
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
from headrace.kernel.errors import ProjectError, Refused
from headrace.training.evaluation import evaluator_for
from headrace.training.files import MODEL, PLAN
from headrace.training.matrices import matrix_of
from headrace.training.trainers.folder import Predictor, load_model
from headrace.training.trainers.port import Label

__all__ = ["ChampionResult", "evaluate_champion", "recompute_features"]


class ChampionResult(NamedTuple):
    """The result of the champion on the test rows.

    Attributes:
        metrics: its metrics; None if no champion exists or it could not be evaluated.
        problem: why the champion could not be evaluated, or empty.
    """

    metrics: dict[str, float] | None = None
    problem: str = ""


def evaluate_champion(
    bundle: Path, test: pl.DataFrame, target: str, task: Task, classes: tuple[Label, ...] = ()
) -> ChampionResult:
    """Evaluates the champion on the test rows, with the feature columns of its own plan.

    Both versions are evaluated on the same rows. So a row that the champion would refuse to answer is kept, as
    a row with missing features.

    Args:
        bundle: the champion's verified bundle.
        test: the test rows, with the features as the champion's plan defines them (recompute_features).
        target: the label's column.
        task, classes: those of the new version.

    Raises:
        ProjectError: the features of the champion's model differ from those of its plan.
    """
    plan = decode_plan((bundle / PLAN).read_bytes())
    columns = [feature.column for feature in plan.features]
    lacking = sorted(set(columns) - set(test.columns))
    if lacking:
        names = ", ".join(lacking)
        return ChampionResult(None, f"the champion reads {names}, which the test rows do not have")
    predictor = load_model(bundle / MODEL)
    if list(predictor.features) != columns:
        raise ProjectError(
            "the features of the champion's model differ from those of its plan", where=str(bundle)
        )
    different_target = _find_different_target(predictor, task, classes)
    if different_target is not None:
        return ChampionResult(None, f"the champion predicts {different_target}")
    outputs = predictor.predict(matrix_of(test, Matrix(plan, predictor.meta.encoding)))
    evaluator = evaluator_for(task)
    try:
        evaluation = evaluator.evaluate(evaluator.encode(test[target], classes), outputs, classes)
    except Refused as error:  # a fault of the champion is no fault of the new version
        return ChampionResult(None, f"the champion cannot be evaluated on the test rows: {error.what}")
    return ChampionResult(evaluation.metrics)


def _find_different_target(predictor: Predictor, task: Task, classes: tuple[Label, ...]) -> str | None:
    """A description of the champion's target if its task or classes differ from the new version's, or None."""
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
    """Computes the champion's features for the test rows, as the champion's plan defines them.

    Args:
        champion: the champion's plan.
        plan: the new version's plan, which made the test rows.
        test: the test rows, with the keys, `event_timestamp` and the request's fields.
        tables: the names of the tables that `read` can read.
        read: returns the rows of the table with the given name.

    Returns:
        The test rows. Features that both plans define alike are unchanged. Features that the champion's plan
        defines differently are recomputed, or left out where that is impossible: a table or a column is
        missing, or the function fails (a single row that it fails on has nulls). Rowwise tables are computed by
        their present code for both plans.
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
    remaining = test.drop(feature.column for feature in redefined if feature.column in test.columns)
    if not {view.table for view in stored} <= set(tables) or not keys | requested <= set(test.columns):
        return remaining
    try:
        return join(remaining, reduced, read, failed={})
    except OnDemandError:
        return remaining


def _definition(view: View) -> View:
    return msgspec.structs.replace(view, code="") if isinstance(view, WindowedView) else view
