"""Positions: what they cover, how they move, and that they come back from text as they were."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.kernel.position import LogPosition, SnapshotPosition, decode_position, encode_position

offsets = st.dictionaries(st.integers(0, 1_000), st.integers(0, 2**62), max_size=8)
positions = st.one_of(
    st.builds(LogPosition, st.text(), st.text(), offsets),
    st.builds(SnapshotPosition, st.text(), st.integers(-(2**63), 2**63 - 1)),
)


@given(positions)
def test_text_gives_the_position_back(position: LogPosition | SnapshotPosition) -> None:
    assert decode_position(encode_position(position)) == position


@given(offsets, st.randoms())
def test_equal_positions_are_equal_text(moved: dict[int, int], random: object) -> None:
    items = list(moved.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    one, other = LogPosition("t", "i", moved), LogPosition("t", "i", dict(items))
    assert encode_position(one) == encode_position(other)


def test_what_was_read_is_covered_and_nothing_else() -> None:
    position = LogPosition("t", "i", {1: 5})
    assert position.covers(1, 4)
    assert not position.covers(1, 5)
    assert not position.covers(0, 0)
    assert position.next_offset(0) == 0


def test_it_moves_only_in_the_partitions_named() -> None:
    position = LogPosition("t", "i", {0: 3, 1: 5})
    assert position.with_offsets({1: 9}).offsets == {0: 3, 1: 9}
    assert position.offsets == {0: 3, 1: 5}


@pytest.mark.parametrize("text", ["", "{}", '{"kind":"other"}', '{"kind":"log"}', "[1]"])
def test_other_text_is_no_position(text: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_position(text)
