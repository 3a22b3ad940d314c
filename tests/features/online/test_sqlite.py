"""The online store in a SQLite file: a full disk, a file that is no longer a database, forgotten keys."""

from __future__ import annotations

import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.features.online.stores import (
    ACTIVITY,
    FACTS,
    NOW,
    PLAN,
    Clock,
    at_offset,
    facts,
    fill,
    look_up,
    offline_rows,
    plan_of,
)
from tests.features.views import DAY, HOUR, MINUTE, events_frame

from headrace.features.online import OnlineStore
from headrace.features.online.entity_store import EntityStore
from headrace.features.online.sqlite import SqliteDatabase, open_sqlite
from headrace.features.online.store import StoreUnavailable
from headrace.kernel.errors import Unavailable
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.time import now_micros


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def apply_events(store: OnlineStore, first: int, count: int) -> None:
    """Applies an event of each of `count` users, from offset `first` on."""
    now = now_micros()
    rows = events_frame([(user, now - 1, 1, 2.0, "a", True) for user in range(count)]).to_arrow()
    store.apply([ACTIVITY], rows, at_offset(first + count), after=at_offset(first))


def test_a_clock_that_is_ahead_for_a_while_takes_no_event_from_a_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, now = plan_of(ACTIVITY), now_micros()
    events = [(1, now - minutes * MINUTE, minutes, 1.5, "a", True) for minutes in (30, 20, 10)]
    with closing(open_sqlite(tmp_path / "online.db")) as store:
        store.prepare(plan)
        store.fill(ACTIVITY, events_frame(events[:2]).to_arrow(), at_offset(2))
        with monkeypatch.context() as patch:
            patch.setattr("headrace.kernel.time.time_ns", lambda: time.time_ns() + 20 * DAY * 1_000)
            store.apply([ACTIVITY], events_frame(events[2:]).to_arrow(), at_offset(3), after=at_offset(2))
        result = store.lookup(plan, [{"user_id": 1}], now)
    assert result.rows == offline_rows(ACTIVITY, events, [1], now)


@pytest.mark.parametrize("users", [1, 3_000])  # the transaction fails when it is committed, or before
def test_a_full_disk_is_unavailable_and_the_store_continues_once_there_is_room(
    tmp_path: Path, users: int
) -> None:
    plan = plan_of(ACTIVITY)
    with closing(open_sqlite(tmp_path / "online.db")) as store:
        store.prepare(plan)
        store.fill(ACTIVITY, events_frame([]).to_arrow(), at_offset(0))
        apply_events(store, 0, 1)
        with full_disk(4096):
            for _ in range(2):
                with pytest.raises(Unavailable, match="the online store cannot be") as error:
                    apply_events(store, 1, users)
                assert error.value.retryable
        assert store.position(ACTIVITY) == at_offset(1)
        apply_events(store, 1, users)
        assert store.position(ACTIVITY) == at_offset(1 + users)
        assert store.lookup(plan, [{"user_id": 0}], now_micros()).rows[0][0] == 2


@pytest.mark.parametrize("sound", [0, 100])  # bytes at the beginning of the file that are as they were
def test_a_damaged_file_is_unavailable(tmp_path: Path, sound: int) -> None:
    path = tmp_path / "online.db"
    with closing(open_sqlite(path)) as store:
        store.prepare(plan_of(ACTIVITY))
    content = path.read_bytes()
    path.write_bytes(content[:sound] + b"\xff" * (len(content) - sound))
    with pytest.raises(Unavailable, match=r"the online store (is damaged|cannot be)") as error:
        open_sqlite(path)
    assert error.value.where == str(path)


def test_a_file_that_is_damaged_while_it_is_open_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "online.db"
    with closing(open_sqlite(path, clock=Clock())) as store:
        fill(store)
    content = path.read_bytes()
    with closing(open_sqlite(path, clock=Clock())) as store:
        assert look_up(store, [8]).rows[0][-2:] == [8, 0.5]
        path.write_bytes(content[:16384] + b"\xff" * (len(content) - 16384))
        with pytest.raises(StoreUnavailable, match="the online store is damaged"):
            look_up(store, [1500])


def test_a_lookup_of_many_entities_sees_one_moment(tmp_path: Path) -> None:
    """A writer commits before the second statement of a lookup that takes several."""
    path, plan, users, begun = tmp_path / "online.db", plan_of(FACTS), range(1_200), []
    old, new = ([(user, NOW - HOUR, number, 0.5) for user in users] for number in (1, 2))
    database = SqliteDatabase(path)
    with (
        closing(open_sqlite(path, clock=Clock())) as writer,
        closing(EntityStore(database, clock=Clock())) as store,
    ):
        writer.prepare(plan)
        writer.load(FACTS, facts(old), SnapshotPosition("facts", 1))

        def note(statement: str) -> None:
            if " from asked " in statement:
                begun.append(statement)
                if len(begun) == 2:
                    writer.load(FACTS, facts(new), SnapshotPosition("facts", 2))

        database._db().set_trace_callback(note)
        rows = store.lookup(plan, [{"user_id": user} for user in users], NOW).rows
        assert len(begun) > 2
        assert {row[0] for row in rows} == {1}
        assert writer.position(FACTS) == SnapshotPosition("facts", 2)


class CutText:
    """The group_concat of older versions of SQLite, whose text ends at a zero byte."""

    def __init__(self) -> None:
        self.text = b""

    def step(self, value: bytes, _separator: str) -> None:
        self.text += value

    def finalize(self) -> bytes:
        return self.text.partition(b"\0")[0]


def test_an_older_sqlite_reads_the_same_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = [8, 4_000, 9, 8, 1_001]
    database = SqliteDatabase(tmp_path / "online.db")
    with closing(EntityStore(database, clock=Clock())) as store:
        fill(store)
        expected = look_up(store, users)
        database._db().create_aggregate("group_concat", 2, CutText)
        assert look_up(store, users)[:2] == expected[:2]  # each entity by itself
        monkeypatch.setattr("headrace.features.online.sqlite._joins_bytes", lambda: False)
        statements: list[str] = []
        database._db().set_trace_callback(statements.append)
        assert look_up(store, users)[:2] == expected[:2]
        assert sum("entities_" in statement for statement in statements) <= 2  # one for each set of keys


def test_a_forgotten_key_is_no_longer_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "online.db"
    with closing(open_sqlite(path, clock=Clock())) as store:
        fill(store)
        assert store.forget([{"user_id": 7}]) == 2
        assert store.lookup(PLAN, [{"user_id": 8}], NOW).rows[0][-2:] == [8, 0.5]
    with closing(sqlite3.connect(path)) as db:
        (table,) = db.execute("select entities from views where digest = ?", (FACTS.digest,)).fetchone()
        assert db.execute(f"select key from {table} where key in (6, 7, 8)").fetchall() == [(6,), (8,)]
