"""One suite for every online store: its values equal those of the offline kernel and join."""

import sys
import threading
from functools import partial

import msgspec
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.features.online.stores import (
    ACTIVITY,
    FACTS,
    NOW,
    USER,
    Clock,
    Postgres,
    Redis,
    Sqlite,
    at_offset,
    exact_text,
    facts,
    offline_rows,
    plan_of,
)
from tests.features.views import (
    DAY,
    HOUR,
    MINUTE,
    events_around,
    events_frame,
    instant,
    view_of_all_functions,
    wild_amounts,
    wild_numbers,
)

from headrace.features.offline.point_in_time import join
from headrace.features.online import RowPosition, StreamPosition
from headrace.features.plan import AsOfView, EntityKey, PlanField
from headrace.features.values.columns import POLARS
from headrace.kernel import faults
from headrace.kernel.errors import CallError, Conflict, ProjectError, Unavailable
from headrace.kernel.position import SnapshotPosition


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def kind(request):
    """Makes a store of this kind, of a folder and a clock."""
    if request.param == "sqlite":
        return Sqlite
    if request.param == "redis":
        return partial(Redis, request.getfixturevalue("redis_server").url)
    return partial(Postgres, request.getfixturevalue("postgres").url)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def home(kind, clock, tmp_path):
    return kind(tmp_path, clock)


@pytest.fixture
def store(home):
    with home.open() as store:
        yield store


@pytest.fixture
def quick_switches():
    """Lets threads take turns often: the writer does not wait long for busy readers."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_lookup_equals_the_offline_kernel_at_the_same_time_and_position(kind, tmp_path_factory, data):
    clock = Clock()
    stores = kind(tmp_path_factory.mktemp("online"), clock)
    kinds = st.sampled_from(
        [events_around(NOW), events_around(NOW, amounts=wild_amounts, numbers=wild_numbers)]
    )
    events = data.draw(data.draw(kinds), label="events, in the order of the log")
    cuts = sorted(data.draw(st.sets(st.integers(0, len(events)), max_size=4), label="batches end at"))
    clocks = sorted(
        data.draw(
            st.lists(st.integers(NOW - 3 * HOUR, NOW), min_size=len(cuts) + 1, max_size=len(cuts) + 1),
            label="wall clock at each batch",
        )
    )
    first = data.draw(st.integers(0, cuts[0] if cuts else len(events)), label="filled up to")
    plan = plan_of(ACTIVITY)
    clock.now = clocks[0]
    with stores.open() as store:
        store.prepare(plan)
        store.fill(ACTIVITY, events_frame(events[:first]).to_arrow(), at_offset(first))
    before = first
    for until, now in zip([*cuts, len(events)], clocks, strict=True):
        clock.now = now
        with stores.open() as store:
            if until > before:
                batch = events_frame(events[before:until]).to_arrow()
                store.apply([ACTIVITY], batch, at_offset(until), after=at_offset(before))
                with pytest.raises(Conflict):
                    store.apply([ACTIVITY], batch, at_offset(until), after=at_offset(before))
            before = max(until, before)
            moment = now - data.draw(st.integers(0, 5 * MINUTE), label="the lookup began before")
            expected = offline_rows(ACTIVITY, events[:before], [1, 2, 3, 4], now, moment)
            for at, rows in ((now, expected[:4]), (moment, expected[4:])):
                result = store.lookup(plan, [{"user_id": user} for user in (1, 2, 3, 4)], at)
                assert exact_text(result.rows) == exact_text(rows)
                alone = store.lookup(plan, [{"user_id": 1}], at)
                assert exact_text(alone.rows) == exact_text(result.rows[:1])
            # Between an entity's position and the view's there is no event that counts for the entity.
            for user, position in zip((1, 2, 3, 4), result.positions, strict=True):
                until = position["activity"].offsets[0]
                assert until <= before
                between = [event for event in events[until:before] if event[0] == user]
                assert [event for event in between if event[1] >= NOW - ACTIVITY.longest] == []


def test_batches_of_several_entities_in_several_columns(store):
    plan = plan_of(ACTIVITY, FACTS)
    store.prepare(plan)
    store.fill(ACTIVITY, events_frame([]).to_arrow(), at_offset(0))
    store.load(
        FACTS, facts([(user, NOW, user, 0.5) for user in range(0, 2000, 2)]), SnapshotPosition("facts", 7)
    )
    events = [(user, NOW - 1 - user, user, 1.5, "a", True) for user in range(1000)]
    store.apply([ACTIVITY], events_frame(events).to_arrow(), at_offset(1000), after=at_offset(0))
    users = list(range(-5, 2005))
    result = store.lookup(plan, [{"user_id": user} for user in users], NOW)
    width = len(ACTIVITY.aggregations)
    assert exact_text([row[:width] for row in result.rows]) == exact_text(
        offline_rows(ACTIVITY, events, users, NOW)
    )
    assert [row[width:] for row in result.rows] == [
        [user, 0.5] if user % 2 == 0 and 0 <= user < 2000 else [None, None] for user in users
    ]
    assert result.positions[5 + 4] == {"activity": StreamPosition({0: 1000}), "facts": RowPosition(7, NOW)}
    assert result.positions[0] == {"activity": StreamPosition({0: 1000}), "facts": RowPosition(7, None)}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_plan_without_stored_views_has_an_empty_row_for_each_key(store, count):
    """Its features are computed from the request alone."""
    plan, keys = plan_of(), [{"user_id": user} for user in range(count)]
    store.prepare(plan)
    assert store.lookup(plan, keys, NOW) == ([[] for _ in keys], [{} for _ in keys], {})


def test_each_row_of_a_lookup_belongs_to_its_key(store):
    """In the order of the keys: an unknown entity, a null key, one key twice, and one with pushed rows."""
    plan = plan_of(ACTIVITY, FACTS)
    store.prepare(plan)
    store.fill(ACTIVITY, events_frame([(3, NOW - 1, 1, 1.5, "a", True)]).to_arrow(), at_offset(1))
    store.load(FACTS, facts([(user, NOW, user, 0.5) for user in (1, 2, 3)]), SnapshotPosition("facts", 7))
    store.push(FACTS, facts([(2, NOW - 1, 9, 0.9)]))
    users = [3, 99, None, 2, 3, 1]
    result = store.lookup(plan, [{"user_id": user} for user in users], NOW)
    assert [(row[0], *row[-2:]) for row in result.rows] == [
        (1, 3, 0.5),
        (0, None, None),
        (0, None, None),
        (0, 2, 0.5),
        (1, 3, 0.5),
        (0, 1, 0.5),
    ]
    assert [position["facts"].time for position in result.positions] == [NOW, None, None, NOW, NOW, NOW]
    assert store.lookup(plan, [], NOW).rows == []


fact_times = st.one_of(
    st.integers(NOW - 4 * HOUR, NOW + HOUR),
    st.sampled_from([NOW, NOW - 1, NOW + 1, NOW - 2 * HOUR, NOW - 2 * HOUR - 1]),
)
fact = st.tuples(
    st.integers(1, 3), fact_times, st.one_of(st.none(), st.integers(0, 9)), st.sampled_from([None, 0.5])
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tables=st.lists(st.tuples(st.lists(fact, max_size=10), st.integers(0, 3 * HOUR)), min_size=1, max_size=5),
    grows=st.booleans(),
    strict=st.booleans(),
)
def test_as_of_views_follow_the_join_however_their_table_is_rewritten(
    kind, tmp_path_factory, tables, grows, strict
):
    """Each snapshot has any rows, or the rows before and more; time passes between loads."""
    view = AsOfView("facts", ("user_id",), "facts", "time", FACTS.features, 2 * HOUR, ("clicks",))
    plan = plan_of(view, labels_topics=("clicks",) if strict else ())
    clock, table = Clock(), []
    with kind(tmp_path_factory.mktemp("online"), clock).open() as store:
        store.prepare(plan)
        for snapshot, (rows, wait) in enumerate(tables, 1):
            clock.now += wait
            table = table + rows if grows else rows
            store.load(view, facts(table), SnapshotPosition("facts", snapshot))
            assert store.position(view) == SnapshotPosition("facts", snapshot)
            for at in (clock.now, clock.now - 2 * MINUTE, clock.now + 30 * MINUTE):
                result = store.lookup(plan, [{"user_id": user} for user in (1, 2, 3, 4)], at)
                labels = pl.DataFrame({"user_id": [1, 2, 3, 4], "event_timestamp": [instant(at)] * 4})
                joined = join(labels, plan, lambda _, table=table: pl.DataFrame(facts(table)).lazy())
                assert [tuple(row) for row in result.rows] == joined[:, 2:].rows()
                assert {position["facts"].snapshot for position in result.positions} == {snapshot}


def test_values_of_every_dtype_and_null_come_back_as_they_are(store):
    values = {
        "int64": [2**63 - 1, -(2**63), 0],
        "float64": [5e-324, -0.0, 1.7976931348623157e308],
        "string": ["", "a\0b", "é" * 5000],
        "bool": [True, False, True],
        "timestamp": [instant(0), instant(NOW), instant(-1)],
        "list[int64]": [[], [1, None], [2**62] * 300],
        "list[float64]": [[0.1 + 0.2], [], [-1.0, None]],
        "list[string]": [["", "\0"], [None], []],
        "list[bool]": [[True], [False, None], []],
        "list[timestamp]": [[instant(NOW)], [], [None]],
    }
    fields = tuple(PlanField(f"f{index}", dtype) for index, dtype in enumerate(values))
    view = AsOfView("typed", ("user_id",), "typed", "time", fields)
    plan = plan_of(view)
    store.prepare(plan)
    columns = {
        field.name: pl.Series([*values[field.dtype], None], dtype=POLARS[field.dtype]) for field in fields
    }
    rows = pl.DataFrame({"user_id": [1, 2, 3, 4], "time": [instant(NOW - HOUR)] * 4, **columns})
    store.load(view, rows.to_arrow(), SnapshotPosition("typed", 1))
    store.push(view, rows[:1].with_columns(user_id=pl.lit(5)).to_arrow())
    result = store.lookup(plan, [{"user_id": user} for user in (1, 2, 3, 4, 5)], NOW)
    expected = [list(row) for row in zip(*values.values(), strict=True)]
    assert exact_text(result.rows) == exact_text([*expected, [None] * len(fields), expected[0]])


def test_a_write_that_fails_before_its_end_changes_nothing(store, home, monkeypatch):
    """State and position are written in one transaction: a restart continues from the position."""
    plan, key = plan_of(ACTIVITY, FACTS), [{"user_id": 1}]
    store.prepare(plan)
    events = [(1, NOW - HOUR, 1, 2.0, "a", True)] * 3
    row, newer = facts([(1, NOW - HOUR, 1, 0.5)]), facts([(1, NOW - MINUTE, 2, 0.5)])
    store.fill(ACTIVITY, events_frame(events[:1]).to_arrow(), at_offset(1))
    store.load(FACTS, row, SnapshotPosition("facts", 1))
    before = store.lookup(plan, key, NOW)[:2]

    def fail(point):
        if point.endswith(".written"):
            raise InterruptedError(point)

    rest = events_frame(events[1:]).to_arrow()
    writes = [
        lambda store: store.load(FACTS, newer, SnapshotPosition("facts", 2)),
        lambda store: store.fill(ACTIVITY, events_frame(events).to_arrow(), at_offset(3)),
        lambda store: store.apply([ACTIVITY], rest, at_offset(3), after=at_offset(1)),
    ]
    monkeypatch.setattr(faults, "reach", fail)
    for write in writes:
        with pytest.raises(InterruptedError):
            write(store)
        assert store.positions() == {ACTIVITY.digest: at_offset(1), FACTS.digest: SnapshotPosition("facts", 1)}
        assert store.lookup(plan, key, NOW)[:2] == before
    monkeypatch.undo()
    with home.open() as again:
        assert again.lookup(plan, key, NOW)[:2] == before
        again.apply([ACTIVITY], rest, at_offset(3), after=at_offset(1))
        assert again.lookup(plan, key, NOW).rows[0][0] == 3
        with pytest.raises(Conflict):  # the other writer's batch is refused: it is counted already
            store.apply([ACTIVITY], rest, at_offset(3), after=at_offset(1))
        assert store.lookup(plan, key, NOW).rows[0][0] == 3


def test_a_row_removed_from_the_table_leaves_the_store(store):
    plan, keys = plan_of(FACTS), [{"user_id": user} for user in (1, 2, 3)]
    store.prepare(plan)
    newest = NOW - MINUTE * 10
    store.load(FACTS, facts([(user, newest, user, 0.1) for user in (1, 2, 3)]), SnapshotPosition("facts", 1))
    rows = facts([(2, newest - HOUR, 7, 0.2), (3, newest, 3, 0.1)])  # without 1, and 2 an hour earlier
    assert store.load(FACTS, rows, SnapshotPosition("facts", 2)) == 2
    result = store.lookup(plan, keys, NOW)
    assert result.rows == [[None, None], [7, 0.2], [3, 0.1]]
    assert [position["facts"] for position in result.positions] == [
        RowPosition(2, None),
        RowPosition(2, newest - HOUR),
        RowPosition(2, newest),
    ]


def test_a_pushed_row_is_an_additional_row(store):
    plan, key = plan_of(FACTS), [{"user_id": 1}]
    store.prepare(plan)

    def look_up():
        result = store.lookup(plan, key, NOW)
        return result.rows[0][0], result.positions[0]["facts"]

    assert store.push(FACTS, facts([(1, NOW - HOUR, 5, 0.5)])) == 1
    assert store.position(FACTS) == SnapshotPosition("facts", 0)
    # The pushed row stays beside a snapshot that lacks the entity or has an earlier row of it.
    for number, rows in enumerate(([], [(1, NOW - HOUR - 1, 1, 0.1)], [(1, NOW + HOUR, 1, 0.1)]), 1):
        store.load(FACTS, facts(rows), SnapshotPosition("facts", number))
        assert look_up() == (5, RowPosition(None, NOW - HOUR))
    # It does not hide a newer row. A pushed row of equal time replaces a row until the next load.
    store.load(FACTS, facts([(1, NOW - MINUTE * 30, 2, 0.2)]), SnapshotPosition("facts", 4))
    assert look_up() == (2, RowPosition(4, NOW - MINUTE * 30))
    store.push(FACTS, facts([(1, NOW - HOUR, 5, 0.5)]))
    assert look_up() == (2, RowPosition(4, NOW - MINUTE * 30))
    store.push(FACTS, facts([(1, NOW - MINUTE * 30, 6, 0.6)]))
    assert look_up() == (6, RowPosition(None, NOW - MINUTE * 30))
    assert store.position(FACTS) == SnapshotPosition("facts", 4)
    store.load(FACTS, facts([(1, NOW - MINUTE * 30, 2, 0.2)]), SnapshotPosition("facts", 5))
    assert look_up() == (2, RowPosition(5, NOW - MINUTE * 30))


def test_a_load_keeps_pushed_rows_of_an_entity_with_several_keys(store):
    view = AsOfView("facts", ("shop", "user_id"), "facts", "time", FACTS.features)
    plan = plan_of(view, entities=(USER, EntityKey("shop", "shop", "string")))
    store.prepare(plan)
    rows = pl.DataFrame(facts([(1, NOW - HOUR, 5, 0.5)])).with_columns(shop=pl.lit("é"))
    store.push(view, rows.to_arrow())
    store.load(view, rows[:0].to_arrow(), SnapshotPosition("facts", 1))
    assert store.lookup(plan, [{"shop": "é", "user_id": 1}], NOW).rows == [[5, 0.5]]


@pytest.mark.usefixtures("quick_switches")
def test_readers_during_a_load_see_the_old_or_the_new_snapshot(kind, clock, tmp_path):
    plan, seen, done = plan_of(FACTS), set(), threading.Event()
    users = [{"user_id": user} for user in range(20)]
    with kind(tmp_path, clock).open() as store:
        store.prepare(plan)
        # An odd snapshot lacks the odd users and has another value for the even ones.
        tables = [
            facts([(user, NOW - HOUR, number, 0.5) for user in range(0, 20, 1 + number)]) for number in (0, 1)
        ]
        store.load(FACTS, tables[0], SnapshotPosition("facts", 0))

        def read():
            while not done.is_set():
                seen.add(tuple(row[0] for row in store.lookup(plan, users, NOW).rows))

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for snapshot in range(1, 60):
            store.load(FACTS, tables[snapshot % 2], SnapshotPosition("facts", snapshot))
        done.set()
        for reader in readers:
            reader.join()
    assert seen
    assert seen <= {(0,) * 20, (1, None) * 10}


def test_a_broken_entity_affects_no_other(store, home, caplog):
    """An unreadable state makes the update of one entity fail."""
    plan, users = plan_of(ACTIVITY), [{"user_id": user} for user in (1, 2)]
    events = [(user, NOW - HOUR, 1, 2.0, "a", True) for user in (1, 2)]
    store.prepare(plan)
    store.fill(ACTIVITY, events_frame(events).to_arrow(), at_offset(2))
    assert store.count_broken(ACTIVITY) == 0
    home.corrupt(ACTIVITY, 1)
    for offset in (2, 4):
        store.apply([ACTIVITY], events_frame(events).to_arrow(), at_offset(offset + 2), after=at_offset(offset))
    assert store.position(ACTIVITY) == at_offset(6)
    assert store.lookup(plan, users[1:], NOW).rows[0][0] == 3
    with pytest.raises(Unavailable, match=r"broken: view 'activity', entity \(1,\)"):
        store.lookup(plan, users[:1], NOW)
    assert store.count_broken(ACTIVITY) == 1
    assert sum("is broken" in record.message for record in caplog.records) == 1
    store.fill(ACTIVITY, events_frame(events * 3).to_arrow(), at_offset(6))
    assert store.count_broken(ACTIVITY) == 0
    assert [row[0] for row in store.lookup(plan, users, NOW).rows] == [3, 3]


def test_an_unreadable_state_is_unavailable_for_its_entity_alone(store, home):
    plan, users = plan_of(ACTIVITY, FACTS), [{"user_id": user} for user in (1, 2)]
    store.prepare(plan)
    events = [(user, NOW - HOUR, 1, 2.0, "a", True) for user in (1, 2)]
    store.fill(ACTIVITY, events_frame(events).to_arrow(), at_offset(2))
    rows = facts([(user, NOW - MINUTE, user, 0.5) for user in (1, 2)])
    for view in (ACTIVITY, FACTS):
        store.load(FACTS, rows, SnapshotPosition("facts", 1))
        home.corrupt(view, 1)
        with pytest.raises(Unavailable, match=f"user_id=1 in view '{view.name}' is unreadable"):
            store.lookup(plan, users, NOW)
        assert store.lookup(plan, users[1:], NOW).rows[0][-2:] == [2, 0.5]
        store.fill(ACTIVITY, events_frame(events).to_arrow(), at_offset(2))
    store.load(FACTS, rows, SnapshotPosition("facts", 2))
    assert [row[-2] for row in store.lookup(plan, users, NOW).rows] == [1, 2]


@pytest.mark.parametrize("keys", [("user_id",), ("shop", "user_id")])
def test_keys_of_another_type_than_their_entity_are_refused_by_name(store, keys):
    text = EntityKey("user", "user_id", "string")
    entities = (text, EntityKey("shop", "shop", "string"))
    rows = pl.DataFrame(facts([(1, NOW - HOUR, 5, 0.5)])).with_columns(shop=pl.lit("é"))
    as_of = AsOfView("facts", keys, "facts", "time", FACTS.features)
    store.prepare(plan_of(as_of, entities=entities))
    with pytest.raises(ProjectError, match="key 'user_id' of view 'facts' is declared as string"):
        store.load(as_of, rows.to_arrow(), SnapshotPosition("facts", 1))
    view = view_of_all_functions((HOUR,), keys=keys)
    store.prepare(plan_of(view, entities=entities))
    events = events_frame([(1, NOW - 1, 1, 1.0, "a", True)]).with_columns(shop=pl.lit("é"))
    with pytest.raises(ProjectError, match="key 'user_id' of view 'activity' is declared as string"):
        store.fill(view, events.to_arrow(), at_offset(1))


def test_a_row_of_the_future_waits_for_its_time(store):
    plan = plan_of(FACTS)
    store.prepare(plan)
    store.load(FACTS, facts([(1, NOW - HOUR, 1, 0.1), (1, NOW + HOUR, 2, 0.2)]), SnapshotPosition("facts", 1))
    assert store.lookup(plan, [{"user_id": 1}], NOW).rows == [[1, 0.1]]
    assert store.lookup(plan, [{"user_id": 1}], NOW + HOUR).rows == [[2, 0.2]]
    assert store.lookup(plan, [{"user_id": 1}], NOW + 4 * HOUR).rows == [[None, None]]  # beyond its ttl


def test_forgotten_entities_have_no_values_in_any_view(store):
    by_shop = AsOfView("of_shop", ("shop",), "of_shop", "time", FACTS.features)
    plan = plan_of(ACTIVITY, FACTS, by_shop, entities=(USER, EntityKey("shop", "shop", "string")))
    store.prepare(plan)
    events = [(user, NOW - HOUR, 1, 2.0, "a", True) for user in (1, 2, 3)]
    store.fill(ACTIVITY, events_frame(events).to_arrow(), at_offset(3))
    rows = pl.DataFrame(facts([(user, NOW - MINUTE, user, 0.5) for user in (1, 2)]))
    store.load(FACTS, rows.to_arrow(), SnapshotPosition("facts", 1))
    store.load(by_shop, rows.with_columns(shop=pl.lit("a")).to_arrow(), SnapshotPosition("of_shop", 1))
    assert store.forget([{"user_id": 1}, {"user_id": 3}, {"user_id": 9}, {"user_id": 1}]) == 3
    keys = [{"user_id": user, "shop": "a"} for user in (1, 2, 3)]
    result = store.lookup(plan, keys, NOW)
    assert [[row[0], *row[-4:-2]] for row in result.rows] == [[0, None, None], [1, 2, 0.5], [0, None, None]]
    assert [row[-1] for row in result.rows] == [0.5] * 3
    assert result.positions[0]["activity"] == StreamPosition({0: 3})
    assert store.forget([{"shop": "a", "user_id": 2}]) == 3
    assert [row[-1] for row in store.lookup(plan, keys, NOW).rows] == [None] * 3
    store.apply([ACTIVITY], events_frame(events[:1]).to_arrow(), at_offset(4), after=at_offset(3))
    assert [row[0] for row in store.lookup(plan, keys, NOW).rows] == [1, 0, 0]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=events_around(NOW),
    cuts=st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted),
    forgotten=st.sets(st.integers(1, 4), min_size=1, max_size=2),
)
def test_a_forgotten_entity_is_unknown_and_a_later_event_starts_it_anew(
    kind, tmp_path_factory, events, cuts, forgotten
):
    """Also in tiles and unsettled events, and however far the others' states are."""
    filled, until = (min(cut, len(events)) for cut in cuts)
    plan, users = plan_of(ACTIVITY, FACTS), (1, 2, 3, 4)
    table = [(user, NOW - MINUTE, user, 0.5) for user in users]
    left = [row for row in table if row[0] not in forgotten]

    def check(store, rows, counted):
        result = store.lookup(plan, [{"user_id": user} for user in users], NOW)
        width = len(ACTIVITY.aggregations)
        expected = offline_rows(ACTIVITY, counted, users, NOW)
        assert exact_text([row[:width] for row in result.rows]) == exact_text(expected)
        values = {user: [x, y] for user, _, x, y in rows}
        assert [row[width:] for row in result.rows] == [values.get(user, [None, None]) for user in users]

    with kind(tmp_path_factory.mktemp("online"), Clock()).open() as store:
        store.prepare(plan)
        store.fill(ACTIVITY, events_frame(events[:filled]).to_arrow(), at_offset(filled))
        store.load(FACTS, facts(table), SnapshotPosition("facts", 1))
        store.push(FACTS, facts([(user, NOW - 1, 9, 0.9) for user in forgotten]))
        if until > filled:
            batch = events_frame(events[filled:until]).to_arrow()
            store.apply([ACTIVITY], batch, at_offset(until), after=at_offset(filled))
        store.forget([{"user_id": user} for user in forgotten])
        check(store, left, [event for event in events[:until] if event[0] not in forgotten])
        if len(events) > until:
            batch = events_frame(events[until:]).to_arrow()
            store.apply([ACTIVITY], batch, at_offset(len(events)), after=at_offset(until))
        anew = [event for place, event in enumerate(events) if place >= until or event[0] not in forgotten]
        check(store, left, anew)
        # What a table still has comes back, and a pushed row does not.
        store.load(FACTS, facts(left), SnapshotPosition("facts", 2))
        store.fill(ACTIVITY, events_frame(anew).to_arrow(), at_offset(len(events)))
        check(store, left, anew)
        store.load(FACTS, facts(table), SnapshotPosition("facts", 3))
        store.fill(ACTIVITY, events_frame(events).to_arrow(), at_offset(len(events)))
        check(store, table, events)


def test_forgetting_with_one_of_several_keys_is_refused_and_removes_nothing(store):
    pair = AsOfView("of_pair", ("shop", "user_id"), "of_pair", "time", FACTS.features)
    plan = plan_of(FACTS, pair, entities=(USER, EntityKey("shop", "shop", "string")))
    store.prepare(plan)
    rows = pl.DataFrame(facts([(1, NOW - MINUTE, 5, 0.5)])).with_columns(shop=pl.lit("a")).to_arrow()
    for view in (FACTS, pair):
        store.load(view, rows, SnapshotPosition(view.table, 1))
    with pytest.raises(CallError, match="'of_pair' belong to shop, user_id, and 'shop' is not given"):
        store.forget([{"user_id": 1}])
    key = [{"user_id": 1, "shop": "a"}]
    assert store.lookup(plan, key, NOW).rows == [[5, 0.5, 5, 0.5]]
    assert store.forget(key) == 2
    assert store.lookup(plan, key, NOW).rows == [[None] * 4]


def test_forgetting_an_entity_keeps_the_row_of_a_view_without_keys(store):
    alone = AsOfView("alone", (), "alone", "time", FACTS.features)
    plan = plan_of(FACTS, alone)
    store.prepare(plan)
    rows = facts([(1, NOW - MINUTE, 5, 0.5)])
    for view in (FACTS, alone):
        store.load(view, rows, SnapshotPosition(view.table, 1))
    assert store.forget([{"user_id": 1}]) == 1
    assert store.lookup(plan, [{"user_id": 1}], NOW).rows == [[None, None, 5, 0.5]]


@pytest.mark.parametrize("key", [{"user_id": "1", "shop": "a"}, {"user_id": 1, "shop": 5}])
def test_forgetting_by_a_value_of_another_type_is_refused_and_removes_nothing(store, key):
    pair = AsOfView("of_pair", ("shop", "user_id"), "of_pair", "time", FACTS.features)
    plan = plan_of(FACTS, pair, entities=(USER, EntityKey("shop", "shop", "string")))
    store.prepare(plan)
    rows = pl.DataFrame(facts([(1, NOW - MINUTE, 5, 0.5)])).with_columns(shop=pl.lit("a")).to_arrow()
    for view in (FACTS, pair):
        store.load(view, rows, SnapshotPosition(view.table, 1))
    with pytest.raises(CallError, match=r"is declared as (int64|string), but it is ('1'|5)"):
        store.forget([key])
    assert store.lookup(plan, [{"user_id": 1, "shop": "a"}], NOW).rows == [[5, 0.5, 5, 0.5]]


def test_forgetting_reaches_views_that_have_the_key_in_another_type(store):
    """As versions of a view have it, when the type of its entity was changed."""
    rows = pl.DataFrame(facts([(user, NOW - MINUTE, user, 0.5) for user in (7, 8, 9)]))
    text = AsOfView("of_text", ("user_id",), "of_text", "time", FACTS.features)
    pair = AsOfView("of_pair", ("shop", "user_id"), "of_pair", "time", FACTS.features)
    texts = rows.with_columns(pl.col("user_id").cast(pl.String))
    shops, shop = texts.with_columns(shop=pl.lit("a")), EntityKey("shop", "shop", "string")
    user = EntityKey("user", "user_id", "string")
    stored = [
        (FACTS, plan_of(FACTS), rows, (7, 8, 9)),
        (text, plan_of(text, entities=(user,)), texts, ("7", "8", "9")),
        (pair, plan_of(pair, entities=(user, shop)), shops, ("7", "8", "9")),
    ]
    for view, plan, table, _ in stored:
        store.prepare(plan)
        store.load(view, table.to_arrow(), SnapshotPosition(view.table, 1))

    def left():
        return [
            [row[0] for row in store.lookup(plan, [{"user_id": u, "shop": "a"} for u in users], NOW).rows]
            for _, plan, _, users in stored
        ]

    with pytest.raises(CallError, match=r"is declared as (int64|string), but it is 7\.0"):
        store.forget([{"user_id": 7.0, "shop": "a"}])
    for other in ("x", "07", " 7", "7.0", "9" * 30, "٧"):
        assert store.forget([{"user_id": other, "shop": "a"}]) == 0
    assert left() == [[7, 8, 9]] * 3
    assert store.forget([{"user_id": 7, "shop": "a"}]) == 3
    assert store.forget([{"user_id": "9", "shop": "a"}]) == 3
    assert left() == [[None, 8, None]] * 3


def test_a_view_that_was_stored_under_another_digest_is_prepared_and_filled_anew(store):
    """As after an update of Headrace that computes digests in another way."""
    plan, rows, old = plan_of(FACTS), [(1, NOW - 1, 7, 0.5)], "0" * 32
    before = msgspec.structs.replace(FACTS)
    vars(before)["digest"] = old
    store.prepare(plan_of(before))
    store.load(before, facts(rows), SnapshotPosition("facts", 1))
    assert store.views() == []
    store.prepare(plan)
    assert store.position(FACTS) is None
    store.load(FACTS, facts(rows), SnapshotPosition("facts", 2))
    assert store.lookup(plan, [{"user_id": 1}], NOW).rows == [[7, 0.5]]
    assert store.views() == [FACTS]
    assert store.positions().keys() == {old, FACTS.digest}
    store.drop(old)
    assert store.positions().keys() == {FACTS.digest}
    assert store.lookup(plan, [{"user_id": 1}], NOW).rows == [[7, 0.5]]


def test_two_plans_live_side_by_side_and_one_is_dropped(store):
    other = view_of_all_functions((HOUR,), name="other")
    for view, count in ((ACTIVITY, 1), (other, 2)):
        store.prepare(plan_of(view))
        store.fill(view, events_frame([(1, NOW - 1, 1, 1.0, "a", True)] * count).to_arrow(), at_offset(count))
    key = [{"user_id": 1}]
    assert store.lookup(plan_of(ACTIVITY), key, NOW).rows[0][0] == 1
    assert store.lookup(plan_of(other), key, NOW).rows[0][0] == 2
    assert {view.digest for view in store.views()} == {ACTIVITY.digest, other.digest}
    store.drop(other.digest)
    assert [view.digest for view in store.views()] == [ACTIVITY.digest]
    assert store.lookup(plan_of(ACTIVITY), key, NOW).rows[0][0] == 1
    with pytest.raises(CallError):
        store.lookup(plan_of(other), key, NOW)


def test_a_view_that_another_process_keeps_dropping_during_a_lookup_is_an_error_of_ours(home, monkeypatch):
    plan, key = plan_of(FACTS), [{"user_id": 1}]
    with home.open() as store, home.open() as other:
        other.prepare(plan)
        other.load(FACTS, facts([(1, NOW - HOUR, 7, 0.5)]), SnapshotPosition("facts", 1))
        make_reader = store._database.reader

        def make_dropping_reader(groups):
            read = make_reader(groups)

            def read_dropped(packed_keys):
                other.drop(FACTS.digest)
                try:
                    return read(packed_keys)
                finally:
                    other.prepare(plan)

            return read_dropped

        monkeypatch.setattr(store._database, "reader", make_dropping_reader)
        with pytest.raises(CallError, match="a view of the plan of 'm' was dropped from the online store"):
            store.lookup(plan, key, NOW)
        monkeypatch.undo()
        with pytest.raises(Unavailable, match="no values yet"):
            store.lookup(plan, key, NOW)


def test_an_unfilled_view_raises_instead_of_giving_zeros(store):
    with pytest.raises(CallError, match="not in the online store"):
        store.lookup(plan_of(ACTIVITY), [{"user_id": 1}], NOW)
    store.prepare(plan_of(ACTIVITY))
    assert store.position(ACTIVITY) is None
    with pytest.raises(Unavailable, match="no values yet"):
        store.lookup(plan_of(ACTIVITY), [{"user_id": 1}], NOW)


def test_keys_may_be_text_or_several_columns(store):
    view = view_of_all_functions((HOUR,), keys=("shop", "user_id"))
    plan = plan_of(view, entities=(USER, EntityKey("shop", "shop", "string")))
    store.prepare(plan)
    rows = events_frame([(1, NOW - 1, 1, 1.0, "a", True), (2, NOW - 1, 1, 1.0, "a", True)])
    store.fill(view, rows.with_columns(shop=pl.Series(["é", None])).to_arrow(), at_offset(2))
    keys = [{"user_id": 1, "shop": "é"}, {"user_id": 1, "shop": "e"}, {"user_id": 2, "shop": "é"}]
    assert [row[0] for row in store.lookup(plan, keys, NOW).rows] == [1, 0, 0]
    text = view_of_all_functions((HOUR,), name="text", keys=("shop",))
    plan = plan_of(text, entities=(EntityKey("shop", "shop", "string"),))
    store.prepare(plan)
    store.fill(text, rows.with_columns(shop=pl.Series(["1", "b"])).to_arrow(), at_offset(2))
    assert [row[0] for row in store.lookup(plan, [{"shop": "1"}, {"shop": "b"}, {"shop": ""}], NOW).rows] == [
        1,
        1,
        0,
    ]


@pytest.mark.parametrize("keys", [("shop",), ("shop", "user_id")])
def test_a_batch_without_an_event_of_any_entity_moves_the_position(store, keys):
    """No event has a text key, or each is older than any window."""
    view = view_of_all_functions((HOUR,), keys=keys)
    plan = plan_of(view, entities=(USER, EntityKey("shop", "shop", "string")))
    store.prepare(plan)
    rows = events_frame([(1, NOW - 1, 1, 1.0, "a", True), (1, NOW - 3 * HOUR, 1, 1.0, "a", True)])
    store.fill(view, rows.with_columns(shop=pl.Series(["x", "x"])).to_arrow(), at_offset(2))
    nobody = rows.with_columns(shop=pl.Series([None, "y"])).to_arrow()
    store.apply([view], nobody, at_offset(4), after=at_offset(2))
    assert store.position(view) == at_offset(4)
    result = store.lookup(plan, [{"user_id": 1, "shop": shop} for shop in ("x", "y")], NOW)
    assert [row[0] for row in result.rows] == [1, 0]


@pytest.mark.usefixtures("quick_switches")
def test_readers_on_other_threads_see_whole_batches(kind, clock, tmp_path):
    """Every batch gives each of two users one event: a reader must never see them differ."""
    view = view_of_all_functions((HOUR,))
    plan = plan_of(view)
    seen, done = [], threading.Event()
    with kind(tmp_path, clock).open() as store:
        store.prepare(plan)
        store.fill(view, events_frame([]).to_arrow(), at_offset(0))

        def read():
            while not done.is_set():
                rows = store.lookup(plan, [{"user_id": 1}, {"user_id": 2}], NOW).rows
                seen.append((rows[0][0], rows[1][0]))

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for batch in range(100):
            rows = events_frame([(user, NOW - 1 - batch, 1, 1.0, "a", True) for user in (1, 2)])
            store.apply([view], rows.to_arrow(), at_offset(batch + 1), after=at_offset(batch))
        done.set()
        for reader in readers:
            reader.join()
    assert len(seen) > 0
    assert [pair for pair in seen if pair[0] != pair[1]] == []


def test_an_event_older_than_any_window_changes_nothing(store, clock):
    view = view_of_all_functions((HOUR,))
    store.prepare(plan_of(view))
    store.fill(view, events_frame([]).to_arrow(), at_offset(0))
    old = events_frame([(1, NOW - DAY, 1, 1.0, "a", True)])
    store.apply([view], old.to_arrow(), at_offset(1), after=at_offset(0))
    assert store.lookup(plan_of(view), [{"user_id": 1}], NOW).rows[0][0] == 0
    assert store.position(view) == at_offset(1)
