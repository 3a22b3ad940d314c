"""The dense form of states: read alone or together, and read back as the tracks that it was made from."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.features.online.stores import NOW, NUMBERS, exact_text, offline_rows
from tests.features.views import HOUR, MINUTE, events_around, events_frame, wild_amounts, wild_numbers

from headrace.features.online.batches import events_by_entity
from headrace.features.online.database import NO_STATE, join_states
from headrace.features.online.tiles import Tiles, unpack_joined

TILES = Tiles(NUMBERS)


def pack(events, now):
    """User → the packed state of their events, which arrived one by one."""
    states: dict[int, bytes] = {}
    for offset, event in enumerate(events):
        for (user,), batch in events_by_entity(NUMBERS, events_frame([event]).to_arrow(), now):
            states[user] = TILES.update(states.get(user), (user,), batch, {0: offset + 1}, now)
    return states


@settings(max_examples=150, deadline=None)
@given(
    events=st.one_of(events_around(NOW), events_around(NOW, amounts=wild_amounts, numbers=wild_numbers)),
    back=st.integers(0, 5 * MINUTE),
)
def test_states_read_together_and_alone_equal_the_offline_kernel(events, back):
    states, at, users = pack(events, NOW), NOW - back, [1, 2, 3, 4] * 5
    expected = exact_text(offline_rows(NUMBERS, events, users, at))
    joined = unpack_joined(join_states([states.get(user) for user in users]), len(users))
    assert exact_text(TILES.read(joined, at)) == expected
    assert [exact_text(TILES.read([state], at))[0] for state in joined] == expected
    for packed in states.values():
        assert TILES.pack(TILES.unpack(packed)) == packed


def test_usual_states_are_dense_and_those_with_very_large_numbers_are_not():
    usual = [(1, NOW - HOUR, 5, 1.1, None, True), (1, NOW - HOUR + 1, 6, 2.2, None, None)]
    huge = [(2, NOW - HOUR, 2**62, 1.0, None, None)]
    states = pack(usual + huge, NOW)
    dense, lists = unpack_joined(states[1] + states[2], 2)
    assert dense.lengths
    assert not lists.lengths
    assert unpack_joined(NO_STATE, 1) == [None]


def test_a_clock_that_was_set_back_makes_no_state_wrong():
    """Its events are unsettled, though a later one is in a tile."""
    later, earlier = (1, NOW - 10 * MINUTE, 1, 1.5, None, True), (1, NOW - 70 * MINUTE, 2, 2.5, None, True)
    states: dict[int, bytes] = {}
    for offset, (event, now) in enumerate([(later, NOW), (earlier, NOW - 69 * MINUTE)]):
        for (user,), batch in events_by_entity(NUMBERS, events_frame([event]).to_arrow(), now):
            states[user] = TILES.update(states.get(user), (user,), batch, {0: offset + 1}, now)
    (state,) = unpack_joined(states[1], 1)
    assert exact_text(TILES.read([state], NOW)) == exact_text(offline_rows(NUMBERS, [later, earlier], [1], NOW))
