"""Positions: what they cover, how they move, and that their text is read back as the same position."""

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
def test_a_position_is_read_back_from_its_text(position: LogPosition | SnapshotPosition) -> None:
    assert decode_position(encode_position(position)) == position


@given(offsets, st.randoms())
def test_equal_positions_have_equal_text(offsets: dict[int, int], random: object) -> None:
    items = list(offsets.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    first, second = LogPosition("t", "i", offsets), LogPosition("t", "i", dict(items))
    assert encode_position(first) == encode_position(second)


def test_a_position_covers_what_was_read_and_nothing_else() -> None:
    position = LogPosition("t", "i", {1: 5})
    assert position.covers(1, 4)
    assert not position.covers(1, 5)
    assert not position.covers(0, 0)
    assert position.next_offset(0) == 0


def test_with_offsets_moves_the_named_partitions_alone() -> None:
    position = LogPosition("t", "i", {0: 3, 1: 5})
    assert position.with_offsets({1: 9}).offsets == {0: 3, 1: 9}
    assert position.offsets == {0: 3, 1: 5}


@pytest.mark.parametrize("text", ["", "{}", '{"kind":"other"}', '{"kind":"log"}', "[1]"])
def test_other_text_is_not_a_position(text: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_position(text)
