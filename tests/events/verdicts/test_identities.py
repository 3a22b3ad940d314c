"""Duplicates, against an oracle that follows the written rule (docs/guide/contracts.md) one event at a time."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.events.verdicts import identities as identities_module
from headrace.events.verdicts.identities import MAX_IN_MEMORY, RecentIdentities
from headrace.events.verdicts.watermarks import Watermarks, merge_watermarks
from headrace.kernel.errors import Unavailable

WITHIN = 10
DAY = timedelta(days=1)


class Event(NamedTuple):
    identity: int
    time: int
    arrived: int


Topic = list[list[Event]]
"""By log partition, in the order of the log."""


def oracle(partition: Sequence[Event]) -> list[bool]:
    """Which events of a log partition are new, if copies of an event always lie in the same partition."""
    admitted: list[Event] = []
    new = []
    for event in partition:
        watermark = max((min(other.time, other.arrived) for other in admitted), default=-(10**9))
        remembered = [other for other in admitted if other.time >= watermark - WITHIN]
        duplicate = any(
            other.identity == event.identity and abs(other.time - event.time) <= WITHIN for other in remembered
        )
        new.append(not duplicate)
        if not duplicate:
            admitted.append(event)
    return new


class Worker:
    """Judges the events of some log partitions, as an ingest does."""

    def __init__(self, table: Table, partitions: set[int], folder: Path) -> None:
        self._table = table
        self.partitions = partitions
        self._watermarks = Watermarks(table.watermarks, shared=table.shared)
        if table.shared:
            self._watermarks.advance(table.behind())
        self.identities = RecentIdentities(timedelta(microseconds=WITHIN), folder, self._watermarks)
        for partition, event in table.admitted:
            remembered = event.time >= self._watermarks.mark(partition) - WITHIN
            if partition in partitions and remembered:
                identity, times, _, partitions_ = columns([(partition, event)])
                self.identities.remember(identity, times, partitions_)

    def judge(self, batch: list[tuple[int, Event]]) -> list[bool]:
        if self._table.shared:
            self._watermarks.advance(self._table.behind())
        identity, times, arrived, partitions = columns(batch)
        new = self.identities.admit(identity, times, arrived, partitions)
        self._table.watermarks = merge_watermarks(self._table.watermarks, self._watermarks.encode())
        return new.tolist()


class Table:
    """The state that outlives a worker: the admitted events, the read offsets and the watermarks."""

    def __init__(self, topic: Topic, *, shared: bool) -> None:
        self.topic = topic
        self.shared = shared
        self.admitted: list[tuple[int, Event]] = []
        self.read = [0] * len(topic)
        self.watermarks: str | None = None
        self.verdicts: dict[tuple[int, int], bool] = {}
        self.clock = 0  # events that arrive later are not on the log yet

    def end(self, partition: int) -> int:
        return sum(event.arrived <= self.clock for event in self.topic[partition])

    def behind(self) -> set[int]:
        return {p for p, offset in enumerate(self.read) if offset < self.end(p)}

    def step(self, worker: Worker, sizes: dict[int, int]) -> None:
        """Let a worker read so many events of its log partitions, one after another, and commit them."""
        batch: list[tuple[int, Event]] = []
        places: list[tuple[int, int]] = []
        ends = {p: min(self.end(p), self.read[p] + n) for p, n in sizes.items() if p in worker.partitions}
        for partition, end in ends.items():
            batch += [(partition, event) for event in self.topic[partition][self.read[partition] : end]]
            places += [(partition, offset) for offset in range(self.read[partition], end)]
        new = worker.judge(batch)
        self.admitted += [row for row, is_new in zip(batch, new, strict=True) if is_new]
        self.verdicts |= dict(zip(places, new, strict=True))
        for partition, end in ends.items():
            self.read[partition] = end


def columns(rows: Sequence[tuple[int, Event]]) -> tuple[pl.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    identity = pl.DataFrame({"id": [event.identity for _, event in rows]}, schema={"id": pl.Int64})
    times, arrived = (
        np.array([getattr(event, name) for _, event in rows], np.int64) for name in ("time", "arrived")
    )
    return identity, times, arrived, np.array([partition for partition, _ in rows], np.int32)


@contextmanager
def limit_memory(identities: int) -> Iterator[None]:
    """For the block, runs of more than so many identities lie in files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identities_module, "MAX_IN_MEMORY", identities)
        yield


@st.composite
def topics(draw: st.DrawFn) -> Topic:
    """Topics of up to three log partitions, with times before and after the arrivals, which increase."""
    topic: Topic = [[] for _ in range(draw(st.integers(1, 3)))]
    clock = 0
    for _ in range(draw(st.integers(0, 40))):
        clock += draw(st.sampled_from([0, 0, 1, 5]))
        time = draw(st.just(clock) | st.integers(0, 60) | st.integers(clock, clock + 40))
        draw(st.sampled_from(topic)).append(Event(draw(st.integers(0, 3)), time, clock))
    return topic


def read_to_end(table: Table, chance: random.Random, folder: Path) -> None:
    """Read a topic to its end in random batches, by workers that die and hand over log partitions."""
    partitions = set(range(len(table.topic)))
    workers: list[Worker] = []
    last = max((event.arrived for partition in table.topic for event in partition), default=0)
    while table.clock < last or table.behind() or not workers:
        if not workers or chance.random() < 0.2:
            mine = {p for p in partitions if table.shared or chance.random() < 0.5}
            workers = [Worker(table, share, folder) for share in (mine, partitions - mine)]
        if chance.random() < 0.5:
            table.clock = chance.randint(table.clock, last)
        order = chance.sample(sorted(partitions), len(partitions))
        table.step(chance.choice(workers), {p: chance.randint(0, 6) for p in order})


CHANCE = st.randoms(use_true_random=False)
LIMITS = st.sampled_from([1, 2, 5, MAX_IN_MEMORY])


@settings(max_examples=250, deadline=None)
@given(topics(), LIMITS, CHANCE)
def test_verdicts_follow_the_rule_for_any_batches_restarts_and_shares(
    tmp_path_factory: pytest.TempPathFactory, topic: Topic, limit: int, chance: random.Random
) -> None:
    table = Table(topic, shared=False)
    with limit_memory(limit):
        read_to_end(table, chance, tmp_path_factory.getbasetemp())
    for partition, events in enumerate(topic):
        assert [table.verdicts[partition, offset] for offset in range(len(events))] == oracle(events)


@settings(max_examples=250, deadline=None)
@given(topics(), LIMITS, CHANCE)
def test_with_shared_watermarks_a_backlog_admits_no_copy(
    tmp_path_factory: pytest.TempPathFactory, topic: Topic, limit: int, chance: random.Random
) -> None:
    table = Table(topic, shared=True)
    with limit_memory(limit):
        read_to_end(table, chance, tmp_path_factory.getbasetemp())
    admitted: list[Event] = []
    for (partition, offset), is_new in table.verdicts.items():  # in the order in which they were judged
        event = topic[partition][offset]
        arrived = [other for other in admitted if other.arrived <= event.arrived]
        watermark = max((min(other.time, other.arrived) for other in arrived), default=0)
        same = [a for a in admitted if a.identity == event.identity and abs(a.time - event.time) <= WITHIN]
        if is_new:
            # An earlier copy of a new event is older than what the rule remembers.
            assert all(other.time < watermark - WITHIN for other in same)
            admitted.append(event)
        else:
            assert same


@pytest.mark.parametrize("shared", [False, True])
def test_reading_a_log_partition_ahead_forgets_no_identity_of_another(tmp_path: Path, shared: bool) -> None:
    # Each partition holds every event twice. The first is read to its end before the second is begun.
    half = [Event(number // 2, number // 2, 1_000) for number in range(400)]
    other = [Event(event.identity + 1_000, event.time, event.arrived) for event in half]
    table = Table([half, other], shared=shared)
    table.clock = 1_000
    worker = Worker(table, {0, 1}, tmp_path)
    for partition in (0, 1):
        while table.read[partition] < 400:
            table.step(worker, {partition: 100})
    assert sum(table.verdicts.values()) == 400


def test_an_event_dated_ahead_forgets_no_identity(tmp_path: Path) -> None:
    now = Event(1, 100, 100)
    table = Table([[now, now, Event(2, 100_000, 100), now, now, Event(2, 100_000, 100)]], shared=False)
    table.clock = 100
    table.step(Worker(table, {0}, tmp_path), {0: 6})
    assert list(table.verdicts.values()) == [True, False, True, False, False, False]


def test_an_idle_log_partition_does_not_stop_the_others_from_forgetting(tmp_path: Path) -> None:
    for shared in (False, True):
        busy = [Event(time, time, time) for time in range(5_000)]
        table = Table([[Event(9, 0, 0)], busy], shared=shared)
        worker = Worker(table, {0, 1}, tmp_path)
        for table.clock in range(0, 5_000, 50):
            table.step(worker, {0: 1, 1: 100})
        assert len(worker.identities) < 500


class OnePartition:
    """Identities of one log partition, each at the time of its number."""

    def __init__(self, within: timedelta, folder: Path) -> None:
        self.identities = RecentIdentities(within, folder, Watermarks())

    def admit(self, ids: np.ndarray) -> np.ndarray:
        return self.identities.admit(pl.DataFrame({"id": ids}), ids, ids, np.zeros(len(ids), np.int32))


def test_the_number_of_identities_follows_the_rate_not_the_age(tmp_path: Path) -> None:
    partition = OnePartition(timedelta(microseconds=1_000), tmp_path)
    most = 0
    for turn in range(300):
        assert partition.admit(np.arange(turn * 100, turn * 100 + 100)).all()
        most = max(most, len(partition.identities))
    assert most < 4_000  # of 30,000; a thousand are remembered at any moment


def anonymous_memory() -> int:
    """Memory of this process that no file backs, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def test_many_identities_lie_in_unnamed_files(tmp_path: Path) -> None:
    count, together = 2_000_000, 100_000
    turns = [np.arange(begin, begin + together) for begin in range(0, count, together)]
    partition = OnePartition(DAY, tmp_path)
    with limit_memory(65_536):
        assert partition.admit(turns[0]).all()
        before = anonymous_memory()
        for ids in turns[1:]:
            assert partition.admit(ids).all()
        assert anonymous_memory() - before < 24 * count / 2
        assert list(tmp_path.iterdir()) == []
        for ids in turns:
            assert not partition.admit(ids).any()
    assert len(partition.identities) == count


@pytest.mark.parametrize("limit", [0, 1_000_000])
def test_a_full_disk_is_reported(tmp_path: Path, limit: int) -> None:
    partition = OnePartition(DAY, tmp_path)
    ids = np.arange(MAX_IN_MEMORY)
    partition.admit(ids)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(Unavailable, match="disk has room") as error:
            partition.admit(ids + MAX_IN_MEMORY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path) in str(error.value)
