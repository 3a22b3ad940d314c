"""Duplicates, against an oracle that follows the definition one event at a time."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.events.verdicts import seen as seen_file
from headrace.events.verdicts.seen import FEW, Seen
from headrace.kernel.errors import Unavailable

WITHIN = 10
DAY = timedelta(days=1)
Events = list[tuple[int, int]]


def oracle(events: Events) -> list[bool]:
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


def columns(events: Events) -> tuple[pl.DataFrame, np.ndarray]:
    identity = pl.DataFrame({"id": [i for i, _ in events]}, schema={"id": pl.Int64})
    return identity, np.array([t for _, t in events], np.int64)


def by_batches(events: Events, sizes: list[int], seen: Seen) -> list[bool]:
    new: list[bool] = []
    while events:
        size = sizes[len(new) % len(sizes)] if sizes else len(events)
        part, events = events[:size], events[size:]
        new += seen.admit(*columns(part)).tolist()
    return new


@contextmanager
def many_is(few: int) -> Iterator[None]:
    """For the block, runs of more than so many lie in files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seen_file, "FEW", few)
        yield


some_events = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60)), max_size=40)
some_sizes = st.lists(st.integers(1, 7), max_size=4)
some_few = st.sampled_from([1, 2, 5, FEW])


@settings(max_examples=400, deadline=None)
@given(some_events, some_sizes, some_few)
def test_verdicts_follow_the_definition_whatever_the_batches_and_wherever_they_are_kept(
    tmp_path_factory: pytest.TempPathFactory, events: Events, sizes: list[int], few: int
) -> None:
    seen = Seen(timedelta(microseconds=WITHIN), tmp_path_factory.getbasetemp())
    with many_is(few):
        assert by_batches(events, sizes, seen) == oracle(events)


@settings(max_examples=200, deadline=None)
@given(some_events, some_events, some_sizes, some_few, st.randoms(use_true_random=False))
def test_what_was_admitted_before_is_remembered_in_any_order(
    tmp_path_factory: pytest.TempPathFactory,
    before: Events,
    after: Events,
    sizes: list[int],
    few: int,
    order: random.Random,
) -> None:
    verdicts = oracle(before + after)
    admitted = [event for event, new in zip(before, verdicts, strict=False) if new]
    order.shuffle(admitted)
    seen = Seen(timedelta(microseconds=WITHIN), tmp_path_factory.getbasetemp())
    with many_is(few):
        for event in admitted:
            seen.remember(*columns([event]))
        assert by_batches(after, sizes, seen) == verdicts[len(before) :]


def test_what_is_held_follows_the_rate_and_not_the_age(tmp_path: Path) -> None:
    seen = Seen(timedelta(microseconds=1_000), tmp_path)
    most = 0
    for turn in range(300):
        ids = np.arange(turn * 100, turn * 100 + 100)
        assert seen.admit(pl.DataFrame({"id": ids}), ids).all()
        most = max(most, len(seen))
    assert most < 4_000  # of 30,000; a thousand are within the time at any moment


def anonymous() -> int:
    """Bytes of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def test_many_identities_lie_in_files_without_a_name(tmp_path: Path) -> None:
    count, together = 4_000_000, 100_000
    turns = [np.arange(begin, begin + together) for begin in range(0, count, together)]
    seen = Seen(DAY, tmp_path)
    assert seen.admit(pl.DataFrame({"id": turns[0]}), turns[0]).all()
    before = anonymous()
    for ids in turns[1:]:
        assert seen.admit(pl.DataFrame({"id": ids}), ids).all()
    assert anonymous() - before < 24 * count / 2
    assert list(tmp_path.iterdir()) == []
    for ids in turns:
        assert not seen.admit(pl.DataFrame({"id": ids}), ids).any()
    assert len(seen) == count


@pytest.mark.parametrize("limit", [0, 1_000_000])
def test_a_full_disk_is_said(tmp_path: Path, limit: int) -> None:
    seen = Seen(DAY, tmp_path)
    ids = np.arange(FEW)
    seen.admit(pl.DataFrame({"id": ids}), ids)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(Unavailable, match="room on the disk") as refused:
            seen.admit(pl.DataFrame({"id": ids + FEW}), ids)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path) in str(refused.value)
