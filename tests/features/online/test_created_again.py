"""A topic that was deleted and created again under its name, and its table with it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.features.online.clicks import activity, clicks_until, ingest, look_up, plan_of, send

from headrace.features.checks.recompute import ServedPrediction, recompute
from headrace.features.offline.rowwise import codes_of, rows_of
from headrace.features.online import StreamPosition
from headrace.features.online.backfill import fill
from headrace.features.online.follow import OnlineSink
from headrace.flows.trace.evidence import find_events
from headrace.kernel.errors import CallError, ProjectError
from headrace.kernel.time import now_micros
from headrace.tables.read import read_input

USERS = list(range(7))
EXPECTED = "its events are no longer in the table of clicks"


def create_again(project, log, lake):
    for path in project.settings.place("log").glob("clicks.db*"):
        path.unlink()
    log.create("clicks", 2)
    lake.drop_table("clicks")


def test_views_get_the_events_of_the_new_topic_by_their_own_code(project, log, lake, store, caplog):
    """A release still answers by `former`, whose rowwise function was edited since: it keeps its values."""
    contract = project.contract("clicks")
    view = replace(activity(), code=codes_of(project)["clean"])
    former = replace(activity(name="former"), code="that of an earlier commit")
    plan = plan_of(view)
    log.create("clicks", 2)
    send(log, clicks_until(now_micros(), 100))
    ingest(project, log, lake)
    fill(project, lake, plan, store)
    rows = rows_of(project, [former])(read_input(project, lake, contract)).rows
    store.prepare(plan_of(former))
    store.fill(former, rows.to_arrow(), store.position(view))
    at = now_micros()
    before = look_up(store, plan_of(former), USERS, at)
    positions = [store.lookup(plan, [{"user": user}], at).positions[0] for user in USERS]
    served = [
        ServedPrediction(str(user), at, {"user": user}, {}, position)
        for user, position in zip(USERS, positions, strict=True)
    ]
    assert [result.failures for result in recompute(project, lake, plan, served)] == [{}] * 7

    create_again(project, log, lake)
    send(log, clicks_until(now_micros(), 400, seed=5))
    ingestion = ingest(project, log, lake, OnlineSink(project, contract, store, lake))
    assert "it has the events of an earlier topic of this name. Run headrace build" in caplog.text
    fill(project, lake, plan, store)
    assert store.position(view) == ingestion.position
    with pytest.raises(ProjectError, match="the function of its table clean was edited since"):
        fill(project, lake, plan_of(former), store)
    assert look_up(store, plan_of(former), USERS, at) == before
    assert store.position(former).log_id != store.position(view).log_id

    send(log, clicks_until(now_micros(), 60, seed=6))
    ingestion = ingest(project, log, lake, OnlineSink(project, contract, store, lake))
    assert store.position(view) == ingestion.position
    results = recompute(project, lake, plan, served)
    assert [result.failures for result in results] == [{"activity": EXPECTED}] * 7
    later = [replace(prediction, at=now_micros()) for prediction in served]
    assert [result.failures for result in recompute(project, lake, plan, later)] == [{}] * 7
    with pytest.raises(CallError, match="no longer in table clicks, which begins later"):
        find_events(project, lake, view, {"user": 1}, at, StreamPosition({0: 5}), 10)
