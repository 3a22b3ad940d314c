"""Duplicates, against an oracle that follows the definition one event at a time."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.events.verdicts.seen import Seen

WITHIN = 10


def oracle(events: list[tuple[int, int]]) -> list[bool]:
    """Which of these (identity, time) are new."""
    admitted: list[tuple[int, int]] = []
    new = []
    for identity, time in events:
        watermark = max((t for _, t in admitted), default=-(10**9))
        again = any(
            other == identity and abs(time - t) <= WITHIN and t >= watermark - WITHIN for other, t in admitted
        )
        new.append(not again)
        if not again:
            admitted.append((identity, time))
    return new


def by_batches(events: list[tuple[int, int]], sizes: list[int]) -> list[bool]:
    seen = Seen(timedelta(microseconds=WITHIN))
    new: list[bool] = []
    while events:
        size = sizes[len(new) % len(sizes)] if sizes else len(events)
        part, events = events[:size], events[size:]
        identity = pl.DataFrame({"id": [i for i, _ in part]}, schema={"id": pl.Int64})
        new += seen.admit(identity, np.array([t for _, t in part], np.int64)).tolist()
    return new


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), max_size=40),
    st.lists(st.integers(1, 7), max_size=4),
)
def test_verdicts_follow_the_definition_whatever_the_batches(
    events: list[tuple[int, int]], sizes: list[int]
) -> None:
    assert by_batches(events, sizes) == oracle(events)


def test_memory_follows_the_rate_and_not_the_age() -> None:
    seen = Seen(timedelta(microseconds=1_000))
    most = 0
    for turn in range(300):
        ids = np.arange(turn * 100, turn * 100 + 100)
        assert seen.admit(pl.DataFrame({"id": ids}), ids).all()
        most = max(most, len(seen))
    assert most < 4_000  # of 30,000; a thousand are within the time at any moment
