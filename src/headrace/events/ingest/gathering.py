"""Gathers judged batches for one commit, while they are already fed to the leading sinks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from time import monotonic
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from headrace.events.ingest.reader import ReadSpan
from headrace.events.verdicts.judge import Verdicts
from headrace.kernel.position import LogPosition
from headrace.kernel.properties import FIRST_POSITION
from headrace.log import Batch

__all__ = ["Gathering", "JudgedBatch", "has_replays"]


class JudgedBatch(NamedTuple):
    """A judged batch: its verdicts, its records if a sink needs them, and its span of the log."""

    verdicts: Verdicts
    batch: Batch | None
    span: ReadSpan


class Gathering:
    """The judged batches of one ingest that are not committed yet.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._waiting: list[JudgedBatch] = []
        self._writing: list[JudgedBatch] = []
        self._since = 0.0

    def __len__(self) -> int:
        """The number of events that wait for their commit."""
        return sum(judged.verdicts.rows.num_rows for judged in self._waiting)

    def is_due(self, count: int, seconds: float) -> bool:
        """Whether so many events wait, or the first of them waits for so long."""
        return len(self) >= count or (bool(self._waiting) and self._clock() >= self._since + seconds)

    def add(self, judged: JudgedBatch) -> None:
        """Adds a batch, which follows on the last one."""
        if not self._waiting:
            self._since = self._clock()
        self._waiting.append(judged)

    def take(self) -> JudgedBatch:
        """Takes what waits, as one batch, to commit it."""
        self._writing, self._waiting = self._waiting, []
        return _merge(self._writing)

    def note_commit(self) -> None:
        """Forgets the events that were taken: they are committed."""
        self._writing = []

    def clear(self) -> None:
        """Forgets all events: they are read again."""
        self._waiting, self._writing = [], []

    def uncommitted(self) -> tuple[list[pa.Table], LogPosition, LogPosition]:
        """The good events of each batch, and the positions before and after all."""
        judged = [*self._writing, *self._waiting]
        return [batch.verdicts.good_rows for batch in judged], judged[0].span.before, judged[-1].span.after


def has_replays(batch: Batch) -> bool:
    """Whether a record of the batch is a replay. Its verdict depends on all that the table has."""
    return any(headers is not None and FIRST_POSITION in headers for headers in batch.headers)


def _merge(parts: Sequence[JudgedBatch]) -> JudgedBatch:
    if len(parts) == 1:
        return parts[0]
    all_verdicts = [part.verdicts for part in parts]
    good = [verdicts.rows.slice(0, verdicts.good) for verdicts in all_verdicts]
    refused = [verdicts.rows.slice(verdicts.good) for verdicts in all_verdicts]
    verdicts = Verdicts(
        pa.concat_tables([*good, *refused]),
        sum(verdicts.good for verdicts in all_verdicts),
        reduce(add, (verdicts.refused for verdicts in all_verdicts)),
        max(verdicts.latest for verdicts in all_verdicts),
        reduce(add, (verdicts.extra for verdicts in all_verdicts)),
        all_verdicts[-1].watermarks,
    )
    first, last = parts[0].span, parts[-1].span
    lost = sum(part.span.lost for part in parts)
    batches = [part.batch for part in parts if part.batch is not None]
    return JudgedBatch(
        verdicts,
        _join(batches) if batches else None,
        ReadSpan(first.start, first.before, last.after, lost),
    )


def _join(batches: Sequence[Batch]) -> Batch:
    return Batch(
        np.concatenate([batch.partitions for batch in batches]),
        np.concatenate([batch.offsets for batch in batches]),
        np.concatenate([batch.arrived_at for batch in batches]),
        [value for batch in batches for value in batch.values],
        [key for batch in batches for key in batch.keys],
        [headers for batch in batches for headers in batch.headers],
        batches[-1].next,
    )
