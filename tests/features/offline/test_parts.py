"""The join in parts gives what the join in memory gives, whatever fits into memory."""

from datetime import timedelta

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from tests.features.offline.expected import NOW
from tests.features.offline.facts import INSTANT, USER, facts_of, facts_view, plan_of
from tests.features.views import DAY, HOUR, events_around, events_frame, instant, view_of_all_functions

from headrace.features.offline.compute import port
from headrace.features.offline.compute.local import LocalCompute
from headrace.features.offline.parts import join_in_pieces
from headrace.features.offline.point_in_time import join, unique_rows
from headrace.features.offline.windows import aggregate
from headrace.features.plan import (
    AsOfView,
    EntityKey,
    FeatureRef,
    OnDemandInput,
    OnDemandView,
    PlanField,
)
from headrace.features.values.on_demand import OnDemandError
from headrace.kernel.errors import ProjectError

LEAST, ALL = 1_000, 1 << 40  # bytes: a part, range or piece holds a few rows; everything fits
PLACES = AsOfView("places", ("place",), "places", "time", (PlanField("name", "string"),), None)
SEASON = AsOfView("season", (), "season", "time", (PlanField("heat", "float64"),), 5 * DAY, (), HOUR)
ACTIVITY = view_of_all_functions((HOUR,))


def labels_of(rows, places=("a", "b", None)):
    return pl.DataFrame(
        {
            "user_id": [user for user, _ in rows],
            "place": [places[index % len(places)] for index in range(len(rows))],
            "event_timestamp": [instant(at) for _, at in rows],
            "note": range(len(rows)),
        },
        schema={"user_id": pl.Int64, "place": pl.String, "event_timestamp": INSTANT, "note": pl.Int64},
    )


def plan_with(*views, **rest):
    return msgspec.structs.replace(
        plan_of(*views, **rest), entities=(USER, EntityKey("place", "place", "string"))
    )


def tables_of(facts, events, late=timedelta(0)):
    place_rows = pl.DataFrame(
        {
            "place": ["a", "b", "a"],
            "time": [instant(NOW - DAY)] * 2 + [instant(NOW - HOUR)],
            "name": list("xyz"),
        }
    )
    heats = pl.DataFrame({"time": [instant(NOW - n * HOUR) for n in range(60)], "heat": np.arange(60) / 7})
    known = pl.when(pl.col("number") > 0).then(pl.col("time") + late)
    return {
        "facts": facts_of(facts),
        "clicks": events_frame(events).with_columns(_known_at=known).lazy(),
        "places": place_rows.lazy(),
        "season": heats.lazy(),
    }


def run(labels, plan, tables, folder, memory):
    """The pieces, and the rows that a function failed on."""
    failed: dict[int, OnDemandError] = {}
    read = tables.__getitem__
    compute = LocalCompute(read)
    pieces = join_in_pieces(labels, plan, read, folder=folder, memory=memory, compute=compute, failed=failed)
    pieces = list(pieces)
    return pieces, {row: error.what for row, error in failed.items()}


def record_sizes(monkeypatch):
    """The numbers of rows that are joined at once."""
    sizes = []

    def record(view, table):
        sizes.append(len(table.collect()))
        return unique_rows(view, table)

    monkeypatch.setattr(port, "unique_rows", record)
    return sizes


users = st.one_of(st.none(), st.integers(1, 3))
moments = st.one_of(st.integers(NOW - 2 * DAY, NOW), st.sampled_from([NOW, NOW - HOUR]))
fact = st.tuples(users, moments, st.one_of(st.none(), st.integers(0, 9)), st.one_of(st.none(), st.just(0.5)))


@settings(max_examples=12, deadline=None)
@given(
    facts=st.lists(fact, max_size=15),
    events=events_around(NOW, size=12),
    rows=st.lists(st.tuples(users, moments), min_size=1, max_size=8),
    ttl=st.sampled_from([None, HOUR, DAY]),
    delay=st.sampled_from([0, HOUR // 2]),
    memory=st.sampled_from([10_000, 30_000, ALL]),
    strict=st.booleans(),
)
def test_every_part_gives_the_same_as_all_in_memory(
    tmp_path_factory, facts, events, rows, ttl, delay, memory, strict
):
    view = facts_view(ttl, ("clicks",), delay)
    plan = plan_with(view, PLACES, SEASON, ACTIVITY, labels_topics=("clicks",) if strict else ())
    tables = tables_of(facts, events, timedelta(hours=1))
    whole = join(labels_of(rows), plan, tables.__getitem__)
    pieces, failed = run(labels_of(rows), plan, tables, tmp_path_factory.mktemp("parts"), memory)
    assert_frame_equal(pl.concat(pieces), whole, check_exact=True)
    assert len(pieces) == 1 or memory < ALL
    assert not failed


def test_one_key_that_holds_most_rows_is_computed_by_ranges_of_time(tmp_path, monkeypatch):
    rng = np.random.default_rng(5)
    count = 4_000
    users = np.where(rng.random(count) < 0.9, 1, rng.integers(2, 9, count))
    times = NOW - rng.integers(0, 3 * DAY, count)
    facts = [(int(u), int(t), int(x), float(x)) for u, t, x in zip(users, times, range(count), strict=True)]
    events = [(u, t, x % 7, y / 3, "a", x % 2 == 0) for u, t, x, y in facts]
    rows = [(1 if n % 10 else 5, int(NOW - rng.integers(0, 3 * DAY))) for n in range(600)]
    plan = plan_with(facts_view(None), view_of_all_functions((HOUR,)))
    tables = tables_of(facts, events)
    sizes = record_sizes(monkeypatch)
    whole = join(labels_of(rows), plan, tables.__getitem__)
    pieces, _ = run(labels_of(rows), plan, tables, tmp_path, 300_000)
    assert_frame_equal(pl.concat(pieces), whole, check_exact=True)
    assert len(pieces) > 2
    assert max(sizes) < count // 2


def test_a_view_without_keys_is_computed_by_ranges_of_time(tmp_path, monkeypatch):
    sizes = record_sizes(monkeypatch)
    heats = pl.DataFrame({"time": [instant(NOW - n * HOUR) for n in range(60)], "heat": np.arange(60) / 7})
    labels, plan = labels_of([(1, NOW - 7 * n * HOUR) for n in range(9)]), plan_with(SEASON)
    whole = join(labels, plan, {"season": heats.lazy()}.__getitem__)
    pieces, _ = run(labels, plan, {"season": heats.lazy()}, tmp_path, 5_000)
    assert_frame_equal(pl.concat(pieces), whole, check_exact=True)
    assert len(sizes) > 1
    assert max(sizes) < len(heats) // 2


def test_a_function_that_fails_on_a_row_fails_on_the_same_row_in_pieces(tmp_path):
    ratio = OnDemandView(
        "ratio",
        (OnDemandInput("x", "facts"),),
        (PlanField("share", "int64"),),
        "row",
        "ratio",
        "def ratio(inputs):\n    return {'share': 12 // inputs['x']}\n",
    )
    plan = plan_with(facts_view(), ratio, features=(FeatureRef("ratio", "share", "int64"),))
    facts = [(user, NOW - DAY, 0 if user == 3 else user, 1.0) for user in range(1, 9)]
    labels = labels_of([(n % 8 + 1, NOW) for n in range(40)])
    whole, all_failed = run(labels, plan, tables_of(facts, []), tmp_path, ALL)
    pieces, failed = run(labels, plan, tables_of(facts, []), tmp_path, LEAST)
    assert failed == all_failed
    assert list(failed) == [2, 10, 18, 26, 34]
    assert_frame_equal(pl.concat(pieces), whole[0])


def test_a_function_that_is_wrong_is_an_error_in_pieces_too(tmp_path):
    wrong = OnDemandView(
        "wrong",
        (OnDemandInput("x", "facts"),),
        (PlanField("no", "int64"),),
        "row",
        "wrong",
        "def wrong(i):\n    return {}\n",
    )
    plan = plan_with(facts_view(), wrong, features=(FeatureRef("wrong", "no", "int64"),))
    with pytest.raises(OnDemandError, match="lacks 'no'"):
        run(labels_of([(1, NOW)] * 5), plan, tables_of([], []), tmp_path, LEAST)


def test_a_missing_column_is_named_before_a_file_is_written(tmp_path):
    plan = plan_with(facts_view())
    tables = {"facts": facts_of([]).drop("y")}
    with pytest.raises(ProjectError, match="feature 'y', a column that table facts lacks"):
        run(labels_of([(1, NOW)] * 3), plan, tables, tmp_path, LEAST)
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize(
    ("rows", "is_written"),
    [
        ([(1, NOW), (1, NOW - HOUR), (None, NOW)], False),  # one of a thousand users
        ([(user, NOW - 2 * DAY) for user in range(1_000)], False),  # no event is within reach
        ([(user, NOW) for user in range(1_000)], True),
    ],
)
def test_only_events_that_a_label_can_reach_are_written_to_parts(tmp_path, rows, is_written):
    events = [(user, NOW - HOUR // 2 + user, user, 0.5, "a", True) for user in range(1_000)] * 5
    labels = labels_of(rows).select("user_id", "event_timestamp")
    job = port.ViewJob(ACTIVITY, plan_with(ACTIVITY), labels, 200_000, tmp_path)
    table = events_frame(events)
    indexes, features = zip(*port.compute_share(job, table.lazy()), strict=True)
    result = pl.concat(features)[np.argsort(np.concatenate(indexes))]
    assert_frame_equal(result, aggregate(ACTIVITY, labels, table, at="event_timestamp"), check_exact=True)
    assert (tmp_path / "rows").exists() == is_written
