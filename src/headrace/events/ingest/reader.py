"""Reads a topic for its table: the next batches of this ingest's share of the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
from msgspec import Struct

from headrace.declare.event import Contract
from headrace.events.ingest.position import read_position
from headrace.events.ingest.share import TopicShare
from headrace.kernel.errors import Refused
from headrace.kernel.position import LogPosition
from headrace.lake import LakeTable
from headrace.log import Batch, Log

__all__ = ["ReadSpan", "TopicReader"]

_logger = logging.getLogger(__name__)


class ReadSpan(Struct, frozen=True):
    """The span of the log that a batch holds.

    Attributes:
        start: log partition → the offset that was read from.
        before, after: the positions before and after the batch, in the log partitions that it was read from.
        lost: how many events, at most, the log deleted before they were read.
    """

    start: dict[int, int]
    before: LogPosition
    after: LogPosition
    lost: int


class TopicReader:
    """Reads the log partitions of a share, from the position of the topic's table.

    Args:
        contract: the topic's contract.
        log: the log.
        table: the topic's table.
        share: the log partitions to read.

    Attributes:
        position: how far the topic has been read, including what is not committed yet.
    """

    def __init__(self, contract: Contract, log: Log, table: LakeTable, share: TopicShare) -> None:
        self._topic = contract.topic
        self._log, self._table, self._share = log, table, share
        self.restart()

    def restart(self) -> None:
        """Returns to the table's position, as a new process would start.

        Raises:
            Refused: the log is not the one that the table has read.
            Unavailable: the log or the table cannot be read.
        """
        self.position = self._check_stored()
        self._start = self._log.start(self._topic)
        self._empty: dict[int, int] = {}  # next offsets after those without a record (Kafka's markers)
        share = {partition: self.position.next_offset(partition) for partition in self._share.partitions}
        self._lost = self._count_lost(share, self._start)

    def offsets(self) -> dict[int, int]:
        """Log partition of the share → the offset to read next."""
        return {
            p: max(self.position.next_offset(p), self._start.get(p, 0), self._empty.get(p, 0))
            for p in self._share.partitions
        }

    def read(self, limit: int) -> tuple[Batch, ReadSpan] | None:
        """Reads the next batch of at most `limit` records, and its span; None at the end of the log.

        Raises:
            Refused: the topic was created again.
            Unavailable: the log cannot be reached.
        """
        start = self.offsets()
        if not start:
            return None
        batch = self._log.read(self._topic, start, limit)
        if self._log.identity(self._topic) != self.position.log_id:
            self.restart()  # raises that the topic was created again
        if not len(batch):
            self._empty = batch.next
            return None
        gaps = _find_gaps(start, batch)
        if gaps:  # the log may have deleted the records there
            self._lost += self._count_lost(gaps, self._log.start(self._topic))
        before, self.position = self.position.for_partitions(batch.next), self.position.with_offsets(batch.next)
        lost, self._lost = self._lost, 0
        return batch, ReadSpan(start, before, self.position.for_partitions(batch.next), lost)

    def has_reached(self, end: Mapping[int, int]) -> bool:
        """Whether this share has been read, and the other shares committed, up to these offsets."""
        is_read = all(offset >= end.get(partition, 0) for partition, offset in self.offsets().items())
        return is_read and self._share.is_committed_by_others(end)

    def _check_stored(self) -> LogPosition:
        """The table's position. Raises Refused if this is not the log that the table has read."""
        log_id = self._log.identity(self._topic)
        stored = read_position(self._table) or LogPosition(self._topic, log_id)
        where = f"table {self._table.name}, topic {self._topic}"
        if stored.log_id != log_id:
            raise Refused(
                "the topic was created again since this table last read it: its offsets now name other events",
                where=where,
                remedy="Set the profile's log to the one that the table has read, or drop the table.",
            )
        ends = self._log.end(self._topic)
        for partition, offset in stored.offsets.items():
            if offset > ends.get(partition, 0):
                raise Refused(
                    f"the table has read log partition {partition} up to {offset}, but the log ends at "
                    f"{ends.get(partition, 0)}: an older copy of it was restored",
                    where=where,
                    remedy="Restore the newer log, or drop the table.",
                )
        return stored

    def _count_lost(self, read: Mapping[int, int], start: Mapping[int, int]) -> int:
        """Counts how many events, at most, the log deleted before they were read; logs a warning for them."""
        lost = 0
        for partition, offset in read.items():
            begin = start.get(partition, 0)
            if begin > offset:
                lost += begin - offset
                _logger.warning(
                    "topic %s: log partition %d was trimmed to %d, but read only up to %d: up to %d events"
                    " are lost. Keep events longer (retention=), or ingest them sooner",
                    self._topic,
                    partition,
                    begin,
                    offset,
                    begin - offset,
                )
        return lost


def _find_gaps(start: Mapping[int, int], batch: Batch) -> dict[int, int]:
    """Log partition → the offset that was read from, if the first record lies after it."""
    gaps = {}
    for partition, offset in start.items():
        at = int(np.argmax(batch.partitions == partition))
        if batch.partitions[at] == partition and batch.offsets[at] > offset:
            gaps[partition] = offset
    return gaps
