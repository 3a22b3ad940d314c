"""One suite for every online store on a server: round trips, deadlines, lost connections, other clients."""

import threading
from contextlib import closing
from time import monotonic

import polars as pl
import psycopg
import pytest
import redis
from tests.features.online.stores import (
    ACTIVITY,
    EVENTS,
    FACTS,
    NOW,
    PLAN,
    Clock,
    at_offset,
    exact_text,
    facts,
    fill,
    look_up,
    offline_rows,
    plan_of,
)
from tests.features.views import HOUR, events_frame
from tests.tcp_proxy import proxy_tcp
from tests.until import until

from headrace.features import online
from headrace.features.online.postgres import open_postgres
from headrace.features.online.redis import open_redis
from headrace.features.plan import AsOfView, EntityKey
from headrace.kernel.errors import CallError, Conflict, ProjectError, Unavailable
from headrace.kernel.position import SnapshotPosition

SHOP = EntityKey("shop", "shop", "string")


class PostgresKind:
    """What the suite needs to know of PostgreSQL."""

    name, password, commit = "PostgreSQL", "PGPASSWORD", b"commit"

    def __init__(self, server):
        self.url, self.port = server.url, server.port

    def open(self, address, project):
        return closing(open_postgres(address, project, clock=Clock()))

    def end_connections(self):
        with psycopg.connect(self.url, autocommit=True) as admin:
            return admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()"
                " and backend_type = 'client backend'"
            ).fetchall()


class RedisKind:
    """What the suite needs to know of Redis."""

    name, password, commit = "Redis", "REDISCLI_AUTH", b"EXEC"

    def __init__(self, server):
        self.url, self.port = server.url, server.port

    def open(self, address, project):
        return closing(open_redis(address, project, clock=Clock()))

    def end_connections(self):
        with closing(redis.Redis.from_url(self.url)) as admin:
            return admin.client_kill_filter(_type="normal", skipme=True)


@pytest.fixture(params=["postgres", "redis"])
def kind(request):
    if request.param == "redis":
        return RedisKind(request.getfixturevalue("redis_server"))
    return PostgresKind(request.getfixturevalue("postgres"))


@pytest.fixture
def project(request):
    return "".join(character for character in request.node.name if character.isalnum())


@pytest.fixture
def proxy(kind):
    with proxy_tcp(kind.port) as proxy:
        yield proxy


@pytest.fixture
def address(kind, proxy):
    """The server's address behind the proxy."""
    return kind.url.replace(f":{kind.port}", f":{proxy.port}")


@pytest.fixture
def impatient():
    """A lookup waits for the server as short as it does elsewhere."""


@pytest.fixture(autouse=True)
def patient(request, monkeypatch):
    """A server that takes long is busy."""
    if "impatient" not in request.fixturenames:
        for name in ("postgres", "redis"):
            monkeypatch.setattr(f"headrace.features.online.{name}._READ", 60.0)


@pytest.fixture
def store(kind, address, project):
    """A store behind the proxy."""
    with kind.open(address, project) as store:
        yield store


@pytest.mark.parametrize("count", [1, 100, 1_000])
def test_a_lookup_is_one_round_trip(store, proxy, count):
    """Two views of one key and one of another, known and unknown entities."""
    by_shop = AsOfView("of_shop", ("shop",), "of_shop", "time", FACTS.features)
    plan = plan_of(ACTIVITY, FACTS, by_shop, entities=(EntityKey("user", "user_id", "int64"), SHOP))
    keys = [{"user_id": user, "shop": str(user)} for user in range(10, 10 + count)]
    fill(store)
    store.prepare(plan)
    rows = pl.DataFrame(facts([(1, NOW - HOUR, 5, 0.5)])).with_columns(shop=pl.lit("11"))
    store.load(by_shop, rows.to_arrow(), SnapshotPosition("of_shop", 1))
    values, positions, _ = store.lookup(plan, keys, NOW)  # connects; PostgreSQL prepares the statement
    before = proxy.round_trips
    assert store.lookup(plan, keys, NOW)[:2] == (values, positions)
    assert proxy.round_trips - before == 1
    assert len(values) == count


@pytest.mark.parametrize("cut", ["cut_before", "cut_after"])
@pytest.mark.parametrize(
    ("kind", "statement"),
    [
        ("postgres", b"insert into"),
        ("postgres", b"set position"),
        ("postgres", PostgresKind.commit),
        ("redis", RedisKind.commit),  # it sends all changes with it
    ],
    indirect=["kind"],
    ids=["states", "offset", "end", "all"],  # they become parts of names, which must not have the bytes
)
def test_a_batch_is_applied_once_over_a_lost_connection(kind, store, proxy, cut, statement):
    """The transaction's outcome is unknown to the client: the position says what to do."""
    fill(store, EVENTS[:20])
    setattr(proxy, cut, statement)
    rest = events_frame(EVENTS[20:]).to_arrow()
    with pytest.raises(Unavailable, match="cannot be reached"):
        store.apply([ACTIVITY], rest, at_offset(len(EVENTS)), after=at_offset(20))
    is_committed = statement == kind.commit and cut == "cut_after"
    position = until(lambda: _position(store))
    assert position == at_offset(len(EVENTS) if is_committed else 20)
    if is_committed:
        with pytest.raises(Conflict):
            store.apply([ACTIVITY], rest, at_offset(len(EVENTS)), after=at_offset(20))
    else:
        store.apply([ACTIVITY], rest, at_offset(len(EVENTS)), after=at_offset(20))
    assert exact_text([row[: len(ACTIVITY.features)] for row in look_up(store, range(60)).rows]) == exact_text(
        offline_rows(ACTIVITY, EVENTS, list(range(60)), NOW)
    )


def _position(store):
    """The position, once the server can be reached again."""
    try:
        return store.position(ACTIVITY)
    except Unavailable:
        return None


def test_a_lookup_goes_on_after_the_server_has_closed_its_connections(kind, store):
    fill(store)
    expected = look_up(store, [1, 2, 5000])
    assert kind.end_connections()
    assert look_up(store, [1, 2, 5000]) == expected


@pytest.mark.usefixtures("impatient")
def test_a_server_that_does_not_answer_delays_no_call_for_long_and_is_found_again(store, proxy):
    fill(store)
    expected = look_up(store, [1])
    proxy.is_frozen = True
    began = monotonic()
    with pytest.raises(Unavailable, match="cannot be reached: it does not answer"):
        look_up(store, [1])
    assert monotonic() - began < 60  # the deadline is 2 s; that of a statement is 300 s
    with pytest.raises(Unavailable, match="cannot be reached"):
        look_up(store, [1])
    proxy.is_frozen = False
    assert until(lambda: _try(lambda: look_up(store, [1]))) == expected


def _try(call):
    try:
        return call()
    except Unavailable:
        return None


def test_while_the_server_is_away_calls_fail_at_once_and_it_is_found_again(kind, store, proxy, address):
    fill(store)
    expected = look_up(store, [1])
    proxy.is_away = True
    with pytest.raises(Unavailable) as caught:
        look_up(store, [1])
    assert caught.value.where == address
    assert kind.password in caught.value.remedy
    before = proxy.refused
    assert [_try(lambda: look_up(store, [1])) for _ in range(200)] == [None] * 200
    assert proxy.refused - before < 100  # most calls try no connection
    proxy.is_away = False
    assert until(lambda: _try(lambda: look_up(store, [1]))) == expected


def test_a_server_that_is_away_is_told_with_its_address(kind, project):
    address = kind.url.replace(str(kind.port), "1")
    with kind.open(address, project) as store, pytest.raises(Unavailable) as caught:
        store.views()
    assert str(caught.value).startswith(f"{address}: the {kind.name} server cannot be reached: ")
    assert "refused" in caught.value.what


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://anna:s3cret@host/features",
        "postgresql://host/features?user=anna&password=s3cret",
        "postgres://anna:s3cret@[::1/features",
        "redis://:s3cret@host:6379/0",
        "rediss://host/0?ssl_password=s3cret",
        "unix:///socket?password=s3cret",
    ],
)
def test_an_address_with_a_password_is_refused_without_showing_it(project_settings, url):
    with pytest.raises(ProjectError) as caught:
        online.open(project_settings.with_values(online=url))
    assert "s3cret" not in str(caught.value)


@pytest.fixture
def project_settings(tmp_path):
    from headrace.config.settings import make_settings

    return make_settings(tmp_path, "small")


def test_an_unknown_address_is_refused(project_settings):
    with pytest.raises(
        ProjectError, match="'mysql://joe:\\*\\*\\*@host/db' is not the address of an online store"
    ):
        online.open(project_settings.with_values(online="mysql://joe:s3cret@host/db"))


def test_two_projects_on_one_server_do_not_see_each_other(kind, project):
    with (
        kind.open(kind.url, project) as store,
        kind.open(kind.url, f"{project}_other") as other,
    ):
        fill(store)
        assert other.views() == []
        with pytest.raises(CallError, match="not in the online store"):
            look_up(other, [1])
        other.prepare(PLAN)
        assert other.positions() == {}


def test_writers_of_different_views_do_not_wait_for_each_other(kind, project):
    """A load is stopped before it commits; another view of the same project is loaded meanwhile."""
    others = AsOfView("others", ("user_id",), "others", "time", FACTS.features)
    rows, goes_on, waits = facts([(1, NOW - HOUR, 5, 0.5)]), threading.Event(), threading.Event()

    with (
        kind.open(kind.url, project) as first,
        kind.open(kind.url, project) as second,
    ):
        first.prepare(plan_of(FACTS, others))
        database = first._database
        replace = database.replace_states

        def replace_and_wait(view, states):
            replace(view, states)
            waits.set()
            assert goes_on.wait(60)

        database.replace_states = replace_and_wait
        thread = threading.Thread(target=first.load, args=(FACTS, rows, SnapshotPosition("facts", 1)))
        thread.start()
        assert waits.wait(60)
        second.load(others, rows, SnapshotPosition("others", 1))
        assert second.lookup(plan_of(others), [{"user_id": 1}], NOW).rows == [[5, 0.5]]
        goes_on.set()
        thread.join()
        assert second.lookup(plan_of(FACTS), [{"user_id": 1}], NOW).rows == [[5, 0.5]]


def test_a_view_that_another_process_dropped_is_not_served(kind, project):
    with (
        kind.open(kind.url, project) as store,
        kind.open(kind.url, project) as other,
    ):
        fill(store)
        expected = look_up(store, [1])
        other.drop(FACTS.digest)
        with pytest.raises(CallError, match=r"'facts' .* is not in the online store"):
            look_up(store, [1])
        with pytest.raises(CallError, match=r"'facts' .* is not in the online store"):
            store.load(FACTS, facts([]), SnapshotPosition("facts", 2))
        fill(other)
        assert look_up(store, [1]) == expected


def test_keys_of_any_text_and_length(kind, project):
    """PostgreSQL's own text takes no NUL, and its indexes take no key of more than 2,700 bytes."""
    names = ["", "\0", "a\0b", "é", "x" * 10_000, "x" * 10_001, "\x7f", "'; drop table views; --", "{1,2}"]
    view = AsOfView("of_shop", ("shop",), "of_shop", "time", FACTS.features)
    pair = AsOfView("of_pair", ("shop", "user_id"), "of_pair", "time", FACTS.features)
    plan = plan_of(view, pair, entities=(EntityKey("user", "user_id", "int64"), SHOP))
    frame = pl.DataFrame(facts([(-(2**63), NOW - HOUR, number, 0.5) for number in range(len(names))]))
    rows = frame.with_columns(shop=pl.Series(names)).to_arrow()
    with kind.open(kind.url, project) as store:
        store.prepare(plan)
        for loaded in (view, pair):
            store.load(loaded, rows, SnapshotPosition("s", 1))
            store.push(loaded, rows)
        keys = [{"shop": name, "user_id": -(2**63)} for name in names]
        expected = [[number, 0.5] * 2 for number in range(len(names))]
        assert store.lookup(plan, keys, NOW).rows == expected
        assert store.lookup(plan, [{"shop": "x" * 9_999, "user_id": 0}], NOW).rows == [[None] * 4]
        store.load(view, rows.slice(0, 1), SnapshotPosition("s", 2))  # the pushed rows of long keys stay
        assert store.lookup(plan, keys, NOW).rows == expected
