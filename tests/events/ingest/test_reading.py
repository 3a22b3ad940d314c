"""Reading ahead: the same records as reading at once, whatever is asked for next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from headrace import log
from headrace.events.ingest.reading import Reading
from headrace.kernel.errors import Unavailable
from headrace.log import Batch, Log


@pytest.fixture
def filled(tmp_path: Path) -> Log:
    opened = log.open(f"sqlite://{tmp_path / 'log'}")
    opened.create("events", 2)
    opened.append("events", [b"%d" % n for n in range(100)], [b"%d" % n for n in range(100)])
    return opened


def test_batch_after_batch_gives_every_record_once(filled: Log) -> None:
    values, offsets = [], {0: 0, 1: 0}
    with Reading(filled, "events") as reading:
        while len(batch := reading.read(offsets, 7)):
            values += batch.values
            offsets = batch.next
    assert sorted(map(int, values)) == list(range(100))


def test_what_was_read_ahead_is_dropped_where_something_else_is_asked_for(filled: Log) -> None:
    with Reading(filled, "events") as reading:
        first = reading.read({0: 0, 1: 0}, 10)
        again = reading.read({0: 0, 1: 0}, 10)
        alone = reading.read({1: 0}, 10)
    assert again.values == first.values
    assert set(alone.partitions.tolist()) == {1}


def test_a_failure_ahead_is_told_to_who_asks_for_it_and_then_is_over(
    filled: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, turns = filled.read, iter(["read", "away"])

    def sometimes(topic: str, offsets: Mapping[int, int], limit: int) -> Batch:
        if next(turns, "read") == "away":
            raise Unavailable("the log is away")
        return read(topic, offsets, limit)

    monkeypatch.setattr(filled, "read", sometimes)
    with Reading(filled, "events") as reading:
        first = reading.read({0: 0, 1: 0}, 10)
        with pytest.raises(Unavailable):
            reading.read(first.next, 10)
        second = reading.read(first.next, 10)
    assert len(second) == 10
    assert not set(first.values) & set(second.values)
