"""What only the online store on Redis does: locks, lost changes, full memory, passwords."""

import os
import random
import shutil
import signal
import threading
from contextlib import closing, contextmanager

import pytest
import redis
from services.redis import redis as run_redis
from tests.features.online.stores import (
    ACTIVITY,
    FACTS,
    NOW,
    PLAN,
    Clock,
    at_offset,
    exact_text,
    facts,
    fill,
    offline_rows,
)
from tests.features.views import HOUR, events_frame
from tests.until import until

from headrace.features.online.redis import open_redis
from headrace.kernel.errors import CallError, Conflict, ProjectError, Unavailable
from headrace.kernel.position import SnapshotPosition

EVENTS = [(user % 7, NOW - 1 - user, user, 1.5, "a", True) for user in range(300)]
USERS = list(range(8))


@pytest.fixture
def project(request):
    return request.node.name


@pytest.fixture
def server(empty_redis):
    """A client of the server."""
    with closing(redis.Redis.from_url(empty_redis)) as client:
        yield client


@pytest.fixture
def store(empty_redis, project):
    with closing(open_redis(empty_redis, project, clock=Clock())) as store:
        yield store


def apply(store, begin, end):
    rows = events_frame(EVENTS[begin:end]).to_arrow()
    store.apply([ACTIVITY], rows, at_offset(end), after=at_offset(begin))


def apply_until_it_is_away(store):
    """Applies the rest of the events one by one, then asks until the server does not answer any more."""
    for begin in range(100, 300):
        apply(store, begin, begin + 1)
    while True:
        store.views()


def has_exactly(store, count):
    """Whether the store has the values of the first events and no others."""
    rows = store.lookup(PLAN, [{"user_id": user} for user in USERS], NOW).rows
    width = len(ACTIVITY.features)
    return exact_text([row[:width] for row in rows]) == exact_text(
        offline_rows(ACTIVITY, EVENTS[:count], USERS, NOW)
    )


@contextmanager
def config(server, **values):
    """Settings of the server, until the block ends."""
    before = {name: server.config_get(name)[name] for name in values}
    for name, value in values.items():
        server.config_set(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            server.config_set(name, value)


def test_a_killed_server_comes_back_with_states_of_its_position(tmp_path):
    """SIGKILL while batches arrive; then ingest continues from the store's position."""
    with run_redis(tmp_path) as running, closing(open_redis(running.url, "shop", clock=Clock())) as store:
        fill(store, EVENTS[:100])
        killer = threading.Timer(0.15, os.kill, (running.pid, signal.SIGKILL))
        killer.start()
        with pytest.raises(Unavailable):
            apply_until_it_is_away(store)
        killer.join()
    with run_redis(tmp_path) as running, closing(open_redis(running.url, "shop", clock=Clock())) as store:
        count = store.position(ACTIVITY).offsets[0]
        assert has_exactly(store, count)
        if count < 300:
            apply(store, count, 300)
        assert has_exactly(store, 300)


def test_a_server_that_lost_the_end_of_its_file_has_states_of_an_earlier_position(tmp_path):
    """A power cut loses the last second: the file of changes ends anywhere."""
    with run_redis(tmp_path) as running, closing(open_redis(running.url, "shop", clock=Clock())) as store:
        fill(store, EVENTS[:100])
        first = sum(file.stat().st_size for file in (tmp_path / "appendonlydir").glob("*.incr.aof"))
        for begin in range(100, 300, 20):
            apply(store, begin, begin + 20)
        store.load(FACTS, facts([(1, NOW - HOUR, 7, 0.5)]), SnapshotPosition("facts", 2))
        shutil.copytree(tmp_path / "appendonlydir", tmp_path / "whole")
    draw, positions = random.Random(5), set()
    (file,) = (tmp_path / "whole").glob("*.incr.aof")
    for _ in range(5):
        shutil.rmtree(tmp_path / "appendonlydir")
        shutil.copytree(tmp_path / "whole", tmp_path / "appendonlydir")
        os.truncate(tmp_path / "appendonlydir" / file.name, draw.randrange(first, file.stat().st_size))
        with run_redis(tmp_path) as running, closing(open_redis(running.url, "shop", clock=Clock())) as store:
            count = until(lambda store=store: _position(store))
            positions.add(count)
            assert has_exactly(store, count)
            snapshot = store.position(FACTS).snapshot_id
            row = store.lookup(PLAN, [{"user_id": 1}], NOW).rows[0]
            assert row[-2] == (7 if snapshot == 2 else 1)
            if count < 300:
                apply(store, count, 300)
            assert has_exactly(store, 300)
    assert len(positions) > 2


def _position(store):
    try:
        return store.position(ACTIVITY).offsets[0]
    except Unavailable:  # it is loading its file
        return None


def test_a_writer_that_lost_its_lock_changes_nothing(store, server, monkeypatch):
    fill(store, EVENTS[:100])
    database = store._database
    write = database.write_states

    def write_and_lose(view, states):
        write(view, states)
        server.set(database._key("lock", view.digest), "another process", px=500)

    monkeypatch.setattr(database, "write_states", write_and_lose)
    with pytest.raises(Conflict, match="another one may have written"):
        apply(store, 100, 200)
    monkeypatch.undo()
    assert has_exactly(store, 100)
    apply(store, 100, 200)  # waits until the other process's lock is over
    assert has_exactly(store, 200)


def test_a_new_state_that_lost_rows_does_not_replace_the_old_one(store, server, monkeypatch):
    """The server was restarted during a load, without its last changes."""
    fill(store, EVENTS[:100])
    replace = store._database.replace_states

    def replace_and_lose(view, states):
        replace(view, states)
        (staged,) = server.keys("*:new:*")
        server.hdel(staged, "1")

    monkeypatch.setattr(store._database, "replace_states", replace_and_lose)
    rows = facts([(user, NOW - HOUR, 7, 0.5) for user in range(50)])
    with pytest.raises(Conflict):
        store.load(FACTS, rows, SnapshotPosition("facts", 2))
    assert store.position(FACTS) == SnapshotPosition("facts", 1)
    assert store.lookup(PLAN, [{"user_id": 1}], NOW).rows[0][-2] == 1
    assert server.keys("*:new:*") == server.keys("*:lock:*") == []
    monkeypatch.undo()
    store.load(FACTS, rows, SnapshotPosition("facts", 2))
    assert store.lookup(PLAN, [{"user_id": 1}], NOW).rows[0][-2] == 7


def test_a_view_that_is_dropped_while_it_is_written_stays_dropped(store, server, empty_redis, project):
    fill(store, EVENTS[:100])
    write = store._database.write_states

    def drop_and_write(view, states):
        with closing(open_redis(empty_redis, project)) as other:
            other.drop(view.digest)
        write(view, states)

    store._database.write_states = drop_and_write
    with pytest.raises(Conflict):
        apply(store, 100, 200)
    assert [view.digest for view in store.views()] == [FACTS.digest]
    with pytest.raises(CallError, match="not in the online store"):
        apply(store, 100, 200)


def test_nothing_is_left_of_a_dropped_view(store, server):
    fill(store, EVENTS[:100])
    for snapshot in (2, 3):
        store.load(FACTS, facts([]), SnapshotPosition("facts", snapshot))
    for view in PLAN.stored:
        store.drop(view.digest)
    assert server.keys() == []


def test_a_server_whose_memory_is_full_refuses_writes_and_answers_lookups(store, server):
    fill(store, EVENTS[:100])
    with config(server, maxmemory=1_000_000):
        with pytest.raises(Unavailable, match=r"Redis refuses it: .*memory"):
            apply(store, 100, 200)
        assert has_exactly(store, 100)
    apply(store, 100, 200)
    assert has_exactly(store, 200)


def test_a_server_that_may_remove_values_is_refused(store, server):
    with (
        config(server, **{"maxmemory-policy": "allkeys-lru", "maxmemory": 10**9}),
        pytest.raises(Unavailable, match=r"may remove feature values .* \(allkeys-lru\)") as caught,
    ):
        store.views()
    assert "noeviction" in caught.value.remedy


def test_a_password_comes_from_the_environment(server, empty_redis, project, monkeypatch):
    with config(server, requirepass="s3cret"):
        with closing(open_redis(empty_redis, project)) as store, pytest.raises(Unavailable) as caught:
            store.views()
        assert "Authentication required" in caught.value.what
        monkeypatch.setenv("REDISCLI_AUTH", "wrong")
        with closing(open_redis(empty_redis, project)) as store, pytest.raises(Unavailable) as caught:
            store.views()
        assert "refuses the user or the password" in caught.value.what
        assert "wrong" not in str(caught.value).replace("WRONGPASS", "")
        monkeypatch.setenv("REDISCLI_AUTH", "s3cret")
        with closing(open_redis(empty_redis, project)) as store:
            assert store.views() == []


@pytest.mark.parametrize("url", ["redis://host:port/0", "redis://host/0?mode=fast"])
def test_an_address_that_is_not_valid_is_refused(url):
    with pytest.raises(ProjectError, match="address of the Redis server is not valid"):
        open_redis(url, "shop")
