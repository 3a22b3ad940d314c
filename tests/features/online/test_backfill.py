"""Filling the online store from a real lake."""

import polars as pl
from tests.features.online.clicks import FACTS, ingest, look_up, plan_of, send
from tests.features.views import DAY, HOUR, MINUTE

from headrace.features.offline.point_in_time import join
from headrace.features.online.backfill import fill
from headrace.features.online.follow import OnlineSink
from headrace.features.plan import AggregateFunction, Aggregation, PlanField, WindowedView
from headrace.kernel.time import from_micros, now_micros

SPENT = WindowedView(
    "spent",
    ("user",),
    "clicks",
    "clicks",
    None,
    "at",
    (PlanField("price", "float64"),),
    tuple(
        Aggregation(kind, "price", AggregateFunction(kind), DAY, HOUR, "float64")
        for kind in ("sum", "mean", "max")
    ),
)


def facts(rows):
    return pl.DataFrame(
        rows, {"user": pl.Int64, "at": pl.Datetime("us", "UTC"), "most": pl.Float64}, orient="row"
    ).to_arrow()


def offline(lake, plan, users, at):
    labels = pl.DataFrame({"user": users, "event_timestamp": [from_micros(at)] * len(users)})
    joined = join(labels, plan, lambda name: lake.table(name).scan())
    return [list(row) for row in joined.select(feature.column for feature in plan.features).rows()]


def test_rows_that_a_rebuild_removed_or_moved_back_in_time_leave_the_store(project, lake, store):
    """After a correction, or an edit of the table's function, the view's digest is the same."""
    plan, now = plan_of(FACTS), now_micros()
    known = from_micros(now - HOUR)
    table = lake.ensure("facts", facts([]).schema)
    table.overwrite(facts([(1, known, 1.0), (2, known, 2.0), (3, known, 3.0)]))
    fill(project, lake, plan, store)
    table.overwrite(facts([(2, from_micros(now - 2 * HOUR), 77.0), (3, known, 3.0)]))
    (filled,) = fill(project, lake, plan, store)
    assert (filled.rows, filled.entities) == (2, 2)
    assert (
        look_up(store, plan, [1, 2, 3], now) == [[None], [77.0], [3.0]] == offline(lake, plan, [1, 2, 3], now)
    )
    (position,) = {
        position["facts"].snapshot for position in store.lookup(plan, [{"user": 1}, {"user": 2}], now).positions
    }
    assert position == table.current_snapshot().id


def test_values_at_the_end_of_the_range_affect_no_other_user(project, log, lake, store):
    plan, now, users = plan_of(SPENT), now_micros(), [1, 2, 3]
    log.create("clicks", 2)
    send(log, [(1, now - HOUR, 2.0), (2, now - HOUR, 1e308)])
    sink = OnlineSink(project, project.contract("clicks"), store, lake)
    ingest(project, log, lake, sink)
    fill(project, lake, plan, store)
    send(log, [(2, now - HOUR, 1e308), (1, now - HOUR, 3.0), (3, now - HOUR, 6.0), (2, now - MINUTE, 1e308)])
    ingestion = ingest(project, log, lake, sink)
    assert store.position(SPENT) == ingestion.position
    at = now_micros()
    inf = float("inf")
    expected = [[5.0, 2.5, 3.0], [inf, 1e308, 1e308], [6.0, 6.0, 6.0]]
    assert look_up(store, plan, users, at) == expected == offline(lake, plan, users, at)
