"""Which columns each feature is computed from."""

from __future__ import annotations

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
)
from headrace.features.plan.sources import source_columns

HOUR = 3_600_000_000
FACTS = AsOfView("facts", ("user_id",), "user_facts", "at", (PlanField("age", "int64"),))
ACTIVITY = WindowedView(
    "activity",
    ("user_id",),
    "clicks",
    "clean_clicks",
    "clean",
    "at",
    (PlanField("price", "float64"),),
    (Aggregation("spent", "price", AggregateFunction("sum"), HOUR, HOUR, "float64"),),
)
RATIO = OnDemandView(
    "ratio",
    (OnDemandInput("spent", "activity"), OnDemandInput("age", "facts"), OnDemandInput("basket")),
    (PlanField("per_year", "float64"),),
    "row",
    "f",
    "def f(i): ...\n",
)
PLAN = FeaturePlan(
    "buy",
    (EntityKey("user", "user_id", "int64"),),
    (FACTS, ACTIVITY, RATIO),
    (
        FeatureRef("facts", "age", "int64"),
        FeatureRef("activity", "spent", "float64"),
        FeatureRef("ratio", "per_year", "float64"),
    ),
    (PlanField("basket", "float64"),),
)


def test_source_columns_are_those_of_each_kind_of_view_and_of_the_labels() -> None:
    columns = ["user_id", "bought", "facts__age", "activity__spent", "ratio__per_year"]
    assert source_columns(PLAN, "outcomes", columns) == {
        "user_id": ["outcomes.user_id"],
        "bought": ["outcomes.bought"],
        "facts__age": ["user_facts.age"],
        "activity__spent": ["clean_clicks.price"],
        "ratio__per_year": ["clean_clicks.price", "user_facts.age", "outcomes.basket"],
    }
