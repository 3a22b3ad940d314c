"""The table `facts` of the tests of joins: its rows, an as-of view of it, and plans."""

from __future__ import annotations

import polars as pl
from tests.features.views import instant

from headrace.features.plan import AsOfView, EntityKey, FeaturePlan, FeatureRef, PlanField

__all__ = ["INSTANT", "USER", "facts_of", "facts_view", "plan_of"]

USER = EntityKey("user", "user_id", "int64")
INSTANT = pl.Datetime("us", "UTC")


def facts_view(ttl=None, topics=(), delay=0):
    return AsOfView(
        "facts",
        ("user_id",),
        "facts",
        "time",
        (PlanField("x", "int64"), PlanField("y", "float64")),
        ttl,
        topics,
        delay,
    )


def plan_of(*views, features=None, **rest):
    features = features or tuple(
        FeatureRef(view.name, field.name, field.dtype) for view in views for field in view.features
    )
    return FeaturePlan("m", (USER,), tuple(views), features, **rest)


def facts_of(rows):
    return pl.DataFrame(
        {
            "user_id": [r[0] for r in rows],
            "time": [None if r[1] is None else instant(r[1]) for r in rows],
            "x": [r[2] for r in rows],
            "y": [r[3] for r in rows],
        },
        schema={"user_id": pl.Int64, "time": INSTANT, "x": pl.Int64, "y": pl.Float64},
    ).lazy()
