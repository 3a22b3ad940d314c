"""The features of the prediction that is made when a week begins, as stock Feast objects."""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float64, Int64, String

from headrace import TableSource
from sales.tables import department_history, sales_history, store_weeks, stores

WEEK = timedelta(weeks=1)

store = Entity(name="store", join_keys=["store"], value_type=ValueType.INT64)
department = Entity(name="department", join_keys=["dept"], value_type=ValueType.INT64)

history = FeatureView(
    name="history",
    entities=[store, department],
    source=TableSource(sales_history),
    ttl=2 * WEEK,  # a load that is late by a week does not stop the predictions
    schema=[
        Field(name="department", dtype=Int64),
        Field(name="lag_1", dtype=Float64),
        Field(name="lag_2", dtype=Float64),
        Field(name="lag_4", dtype=Float64),
        Field(name="lag_8", dtype=Float64),
        Field(name="lag_52", dtype=Float64),
        Field(name="mean_4", dtype=Float64),
        Field(name="mean_13", dtype=Float64),
        Field(name="mean_4_last_year", dtype=Float64),
    ],
)

department_week = FeatureView(
    name="department_week",
    entities=[department],
    source=TableSource(department_history),
    ttl=2 * WEEK,
    schema=[Field(name="season", dtype=Float64), Field(name="pace", dtype=Float64)],
)

week = FeatureView(
    name="week",
    entities=[store],
    source=TableSource(store_weeks),
    ttl=WEEK,
    schema=[
        Field(name="week_of_year", dtype=Int64),
        Field(name="is_holiday", dtype=Bool),
        Field(name="temperature", dtype=Float64),
        Field(name="fuel_price", dtype=Float64),
        Field(name="markdown", dtype=Float64),
        Field(name="cpi", dtype=Float64),
        Field(name="unemployment", dtype=Float64),
    ],
)

facts = FeatureView(
    name="facts",
    entities=[store],
    source=TableSource(stores),
    schema=[
        Field(name="type", dtype=String),
        Field(name="size", dtype=Float64),
        Field(name="region", dtype=String),
    ],
)


def ratios_of(values, others):
    """Each value divided by its counterpart; None where one is missing, or the divisor is not positive."""
    return [
        value / other if value is not None and other is not None and other > 0 else None
        for value, other in zip(values, others, strict=True)
    ]


@on_demand_feature_view(
    sources=[history, department_week, facts],
    schema=[
        Field(name="usual_sales", dtype=Float64),
        Field(name="sales_per_square_foot", dtype=Float64),
        Field(name="velocity", dtype=Float64),
        Field(name="growth", dtype=Float64),
    ],
    mode="python",
)
def ratios(inputs):
    """Sales of a usual year at the present level; recent sales relative to the store's size, to the quarter's
    sales, and to the same weeks a year ago."""
    recent = inputs["mean_4"]
    usual = [
        mean * season if mean is not None and season is not None else None
        for mean, season in zip(inputs["mean_13"], inputs["season"], strict=True)
    ]
    return {
        "usual_sales": usual,
        "sales_per_square_foot": ratios_of(recent, inputs["size"]),
        "velocity": ratios_of(recent, inputs["mean_13"]),
        "growth": ratios_of(recent, inputs["mean_4_last_year"]),
    }


sales_features = FeatureService(name="sales", features=[history, department_week, week, facts, ratios])
