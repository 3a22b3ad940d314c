"""Rows of windows that were computed a moment ago: when they are right, and when not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from tests.features.online.stores import NOW, Clock, at_offset, exact_text, offline_rows, plan_of
from tests.features.views import DAY, HOUR, MINUTE, events_frame, view_of_all_functions

from headrace.features.online import OnlineStore, readers
from headrace.features.online.entity_store import EntityStore
from headrace.features.online.memo import KnownRow, RowMemo
from headrace.features.online.readers import WindowedReader
from headrace.features.online.sqlite import open_sqlite
from headrace.features.online.store import StreamPosition
from headrace.features.online.tiles import decode_state

VIEW = view_of_all_functions((HOUR, DAY, (HOUR, 5 * MINUTE)))
PLAN = plan_of(VIEW)
USERS = [1, 2, 3, 4]
DRAW = Random(5)
# The last event is still to come at NOW.
EVENTS = [
    (
        DRAW.randrange(1, 4),
        NOW - DRAW.randrange(26 * HOUR),
        DRAW.randrange(9),
        DRAW.random(),
        "ab"[at % 2],
        True,
    )
    for at in range(60)
] + [(1, NOW + 30_000_000, 5, 0.25, "a", False)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[OnlineStore]:
    with closing(open_sqlite(tmp_path / "online.db", clock=clock)) as store:
        store.prepare(PLAN)
        store.fill(VIEW, events_frame(EVENTS).to_arrow(), at_offset(len(EVENTS)))
        yield store


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The states that were decoded: their rows were computed."""
    states: list[bytes] = []
    monkeypatch.setattr(readers, "decode_state", lambda state: states.append(state) or decode_state(state))
    return states


def look_up(store: OnlineStore, at: int) -> list[list[str]]:
    return exact_text(store.lookup(PLAN, [{"user_id": user} for user in USERS], at).rows)


def test_rows_are_those_of_the_offline_kernel_at_all_moments(store: OnlineStore) -> None:
    border = NOW // (5 * MINUTE) * 5 * MINUTE
    moments = [border + hops * 5 * MINUTE + step for hops in (0, 1, 12) for step in (-1, 0, 1)]
    moments += [NOW + 30_000_000 + step for step in (0, 1)] + [NOW - MINUTE, NOW, NOW + HOUR]
    expected = offline_rows(VIEW, EVENTS, USERS, NOW, *moments)[len(USERS) :]
    rows = {at: exact_text(expected[4 * n : 4 * n + 4]) for n, at in enumerate(moments)}
    shuffled = DRAW.sample(moments, len(moments))
    for at in [*shuffled, *sorted(moments), *sorted(moments), *sorted(moments, reverse=True)]:
        assert look_up(store, at) == rows[at], at


def test_a_row_is_computed_again_when_its_state_or_a_window_has_changed(
    store: OnlineStore, decoded: list[bytes]
) -> None:
    hop_end = NOW // (5 * MINUTE) * 5 * MINUTE + 5 * MINUTE
    first = look_up(store, NOW)
    assert len(decoded) == 3  # nothing is known of user 4
    assert look_up(store, NOW + 1) == first
    assert len(decoded) == 4  # an event of user 1 is still to come
    event = (2, NOW - 1, 7, 0.5, "b", True)
    offset = len(EVENTS)
    store.apply([VIEW], events_frame([event]).to_arrow(), at_offset(offset + 1), after=at_offset(offset))
    decoded.clear()
    rows = offline_rows(VIEW, [*EVENTS, event], USERS, NOW + 1, hop_end)
    assert look_up(store, NOW + 1) == exact_text(rows[:4]) != first
    assert len(decoded) == 2  # users 1 and 2
    decoded.clear()
    for _ in range(2):
        assert look_up(store, hop_end) == exact_text(rows[4:])
    assert len(decoded) == 3
    store.forget([{"user_id": 3}])
    assert look_up(store, hop_end)[2] == first[3]


def test_a_forgotten_entity_leaves_the_memory(store: OnlineStore, clock: Clock) -> None:
    assert isinstance(store, EntityStore)
    look_up(store, NOW + MINUTE // 2)
    look_up(store, NOW + MINUTE)
    ((_, reader, _, _),) = store._lookups[PLAN.digest]._readers
    assert isinstance(reader, WindowedReader)
    before = set(reader._memo.rows)
    assert len(before) == 3
    store.forget([{"user_id": 3}])
    look_up(store, NOW + MINUTE + 1)
    assert len(before - set(reader._memo.rows)) == 1  # its entity was asked for
    store.forget([{"user_id": 2}])
    clock.now = NOW + MINUTE
    store.drop_known_rows()
    assert len(reader._memo.rows) == 2
    clock.now += MINUTE
    store.drop_known_rows()
    assert not reader._memo.rows  # nobody asked for it


def test_whoever_changes_a_row_changes_no_other(store: OnlineStore) -> None:
    expected = look_up(store, NOW)
    for _ in range(2):
        for row in store.lookup(PLAN, [{"user_id": user} for user in USERS], NOW).rows:
            for value in row:
                if isinstance(value, list):
                    value.clear()
            row.append(0)
    assert look_up(store, NOW) == expected


def test_a_memo_is_bounded() -> None:
    memo = RowMemo(0, 1, 0)
    for user in range(100):
        memo.add(user, KnownRow(bytes(1 << 20), 0, (1.0,), StreamPosition({})))
        assert sum(len(row.state) for row in memo.rows.values()) <= 33 << 20
    assert 99 in memo.rows


def test_a_memo_counts_the_items_of_lists() -> None:
    memo = RowMemo(0, 1, 0)
    for user in range(100):
        memo.add(user, KnownRow(b"", 0, ([0.5] * (1 << 18), None), StreamPosition({})))
        assert len(memo.rows) <= 5
    assert 99 in memo.rows
