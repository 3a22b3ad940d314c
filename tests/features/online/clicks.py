"""Views over clicks, with events and lookups for the tests of the online store."""

from __future__ import annotations

import json
import random
import threading

from tests.features.views import DAY, HOUR, MINUTE

from headrace.events.ingest.ingest import Ingest
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
from headrace.kernel.time import from_micros

__all__ = ["FACTS", "RATIO", "USER", "activity", "clicks_until", "ingest", "look_up", "plan_of", "send"]

USER = EntityKey("user", "user", "int64")


def activity(rowwise="clean", name="activity"):
    return WindowedView(
        name,
        ("user",),
        "clicks",
        rowwise or "clicks",
        rowwise,
        "at",
        (PlanField("cents", "int64"), PlanField("price", "float64")),
        (
            Aggregation("n_1h", "cents", AggregateFunction("count"), HOUR, 5 * MINUTE, "int64"),
            Aggregation("cents_1d", "cents", AggregateFunction("sum"), DAY, HOUR, "int64"),
            Aggregation("spent_1d", "price", AggregateFunction("sum"), DAY, HOUR, "float64"),
            Aggregation("last_1d", "price", AggregateFunction("last"), DAY, HOUR, "float64"),
        ),
    )


FACTS = AsOfView("facts", ("user",), "facts", "at", (PlanField("most", "float64"),), 2 * DAY, ())


RATIO = OnDemandView(
    "ratio",
    (OnDemandInput("most", "facts"), OnDemandInput("price")),
    (PlanField("of_most", "float64"),),
    "row",
    "ratio",
    "def ratio(i):\n    return {'of_most': None if i['most'] is None else i['price'] / i['most']}\n",
)


def plan_of(*views, missing="model", request=()):
    features = tuple(
        FeatureRef(view.name, field.name, field.dtype) for view in views for field in view.features
    )
    return FeaturePlan("m", (USER,), tuple(views), features, request, missing)


def send(log, clicks):
    for start in range(0, len(clicks), 50):
        batch = clicks[start : start + 50]
        log.append(
            "clicks",
            [
                json.dumps({"at": from_micros(at).isoformat(), "user": user, "price": price}).encode()
                for user, at, price in batch
            ],
            [str(user).encode() for user, _, _ in batch],
        )


def clicks_until(now, count, seed=1):
    draw = random.Random(seed)
    return [
        (draw.randrange(6), now - int(draw.random() ** 3 * 2 * DAY), round(draw.uniform(0.5, 40), 2))
        for _ in range(count)
    ]


def ingest(project, log, lake, *sinks):
    ingestion = Ingest(project.contract("clicks"), log, lake, sinks)
    ingestion.run(True, threading.Event())
    return ingestion


def look_up(store, plan, users, at):
    return [list(row) for row in store.lookup(plan, [{"user": user} for user in users], at).rows]
