"""The champion is evaluated on its own features, also where the new plan defines others by their names."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression

from headrace.declare.trainers import Sklearn
from headrace.features.plan import (
    AggregateFunction,
    Aggregation,
    AsOfView,
    EntityKey,
    FeaturePlan,
    FeatureRef,
    OnDemandInput,
    OnDemandView,
    PlanField,
    WindowedView,
    encode_plan,
)
from headrace.features.values.matrix import Encoding
from headrace.training.champion import evaluate_champion, recompute_features
from headrace.training.files import MODEL, PLAN
from headrace.training.trainers.folder import save_model
from headrace.training.trainers.port import Budget, Examples, ModelMeta, TrainingData
from headrace.training.trainers.sklearn import SklearnTrainer

AT = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = 3_600_000_000
FACTS = AsOfView("facts", ("user",), "facts", "at", (PlanField("price", "float64"),))


def activity(window, code="1"):
    spent = Aggregation("spent", "price", AggregateFunction("sum"), window, HOUR, "float64")
    fields = (PlanField("price", "float64"),)
    return WindowedView("activity", ("user",), "clicks", "clicks", None, "at", fields, (spent,), code)


def ratio(by):
    source = f"def f(i):\n    return {{'of': i['asked'] / (i['price'] - {by})}}\n"
    return OnDemandView(
        "ratio",
        (OnDemandInput("asked"), OnDemandInput("price", "facts")),
        (PlanField("of", "float64"),),
        "row",
        "f",
        source,
    )


def plan_of(*views):
    features = [FeatureRef(view.name, field.name, field.dtype) for view in views for field in view.features]
    views = views if FACTS in views else (FACTS, *views)
    return FeaturePlan(
        "m", (EntityKey("user", "user", "int64"),), views, tuple(features), (PlanField("asked", "float64"),)
    )


ROWS = pl.DataFrame(
    {"user": [1, 1], "at": [AT - timedelta(hours=5), AT - timedelta(hours=1)], "price": [1.0, 4.0]}
)
LABEL = {"user": [1], "asked": [8.0], "event_timestamp": [AT], "bought": [1]}
TEST = pl.DataFrame({**LABEL, "activity__spent": [4.0], "ratio__of": [8.0], "facts__price": [4.0]})


@pytest.mark.parametrize(
    ("champion", "plan", "column", "value"),
    [
        (activity(6 * HOUR), activity(2 * HOUR), "activity__spent", 5.0),
        (ratio(0), ratio(3), "ratio__of", 2.0),
        (activity(2 * HOUR, "0"), activity(2 * HOUR), "activity__spent", 4.0),
        (ratio(3), ratio(3), "ratio__of", 8.0),
        (FACTS, FACTS, "facts__price", 4.0),
    ],
)
def test_a_redefined_feature_is_computed_by_the_champions_plan(champion, plan, column, value):
    rows = recompute_features(
        plan_of(champion), plan_of(plan), TEST, {"facts", "clicks"}, lambda _: ROWS.lazy()
    )
    assert rows[column].to_list() == [value]
    assert rows["bought"].to_list() == [1]


@pytest.mark.parametrize(
    ("champion", "plan", "tables", "column"),
    [
        (activity(6 * HOUR), activity(2 * HOUR), {"facts"}, "activity__spent"),
        (ratio(4), ratio(3), {"facts"}, "ratio__of"),
    ],
)
def test_a_feature_that_cannot_be_computed_is_left_out(champion, plan, tables, column):
    rows = recompute_features(plan_of(champion), plan_of(plan), TEST, tables, lambda _: ROWS.lazy())
    assert column not in rows.columns


def test_a_champion_whose_metrics_are_not_finite_is_reported_and_stops_no_training(tmp_path):
    plan, trainer = plan_of(FACTS), SklearnTrainer()
    encoding = Encoding(("facts__price",))
    examples = Examples(np.array([[0], [1]], np.float32), np.array([0, 1e300]))
    fitted = trainer.fit(
        trainer.prepare(TrainingData("regression", encoding, (), examples, examples)),
        Sklearn(LinearRegression()),
        {},
        seed=0,
        budget=Budget(),
    )
    meta = ModelMeta(trainer="sklearn", task="regression", encoding=encoding)
    save_model(tmp_path / MODEL, fitted.files, meta)
    (tmp_path / PLAN).write_bytes(encode_plan(plan))
    result = evaluate_champion(tmp_path, TEST, "bought", "regression")
    assert result.metrics is None
    assert result.problem.startswith("the champion cannot be evaluated on the test rows: ")
    assert result.problem.endswith(" would be NaN or infinite")
