"""Reading a topic for its table: the next batches of this ingest's share of the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from headrace.declare.event import Contract
from headrace.events.ingest.position import read_position
from headrace.events.ingest.share import TopicShare
from headrace.kernel.errors import Refused
from headrace.kernel.position import LogPosition
from headrace.lake import LakeTable
from headrace.log import Batch, Log

__all__ = ["ReadSpan", "TopicReader"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadSpan:
    """Where a batch of the topic lies.

    Attributes:
        asked: log partition → the offset that was asked for.
        before, after: positions before and after it, in the log partitions that it was read from.
        lost: how many events, at most, the log had forgotten before it.
    """

    asked: dict[int, int]
    before: LogPosition
    after: LogPosition
    lost: int


class TopicReader:
    """Reads the log partitions of a share, from where the topic's table is.

    Args:
        contract: the topic's contract.
        log: the log.
        table: the topic's table.
        share: the log partitions to read.

    Attributes:
        position: how far the topic has been read, what is not committed yet included.
    """

    def __init__(self, contract: Contract, log: Log, table: LakeTable, share: TopicShare) -> None:
        self._topic = contract.topic
        self._log, self._table, self._share = log, table, share
        self.restart()

    def restart(self) -> None:
        """Goes back to where the table is, as a new process would begin.

        Raises:
            Refused: the log is not the one that the table has read.
            Unavailable: log or table cannot be read.
        """
        self.position = self._check_stored()
        self._start = self._log.start(self._topic)
        self._empty: dict[int, int] = {}  # next offsets past those that hold no record (Kafka's markers)
        share = {partition: self.position.next_offset(partition) for partition in self._share.partitions}
        self._lost = self._count_lost(share, self._start)

    def offsets(self) -> dict[int, int]:
        """Log partition of the share → the offset to read next."""
        return {
            p: max(self.position.next_offset(p), self._start.get(p, 0), self._empty.get(p, 0))
            for p in self._share.partitions
        }

    def read(self, limit: int) -> tuple[Batch, ReadSpan] | None:
        """The next batch of at most `limit` records, and where it lies; None at the end of the log.

        Raises:
            Refused: the topic was created again.
            Unavailable: the log is away.
        """
        asked = self.offsets()
        if not asked:
            return None
        batch = self._log.read(self._topic, asked, limit)
        if self._log.identity(self._topic) != self.position.log_id:
            self.restart()  # raises that the topic was created again
        if not len(batch):
            self._empty = batch.next
            return None
        gaps = _find_gaps(asked, batch)
        if gaps:  # the log may have forgotten what was there
            self._lost += self._count_lost(gaps, self._log.start(self._topic))
        before, self.position = self.position.for_partitions(batch.next), self.position.with_offsets(batch.next)
        lost, self._lost = self._lost, 0
        return batch, ReadSpan(asked, before, self.position.for_partitions(batch.next), lost)

    def has_reached(self, end: Mapping[int, int]) -> bool:
        """Whether this share has been read, and the other shares committed, up to these offsets."""
        is_read = all(offset >= end.get(partition, 0) for partition, offset in self.offsets().items())
        return is_read and self._share.is_committed_by_others(end)

    def _check_stored(self) -> LogPosition:
        """How far the table has read. Raises Refused where the log is not the one that it has read."""
        log_id = self._log.identity(self._topic)
        stored = read_position(self._table) or LogPosition(self._topic, log_id)
        where = f"table {self._table.name}, topic {self._topic}"
        if stored.log_id != log_id:
            raise Refused(
                "the topic was made again since this table last read it: its offsets mean other events now",
                where=where,
                remedy="Point the profile's log at the one it read before; or drop the table to begin anew.",
            )
        ends = self._log.end(self._topic)
        for partition, offset in stored.offsets.items():
            if offset > ends.get(partition, 0):
                raise Refused(
                    f"the table has read log partition {partition} up to {offset}, but the log ends at "
                    f"{ends.get(partition, 0)}: an older copy of it was put back",
                    where=where,
                    remedy="Put the newer log back; or drop the table to begin anew.",
                )
        return stored

    def _count_lost(self, read: Mapping[int, int], start: Mapping[int, int]) -> int:
        """How many events, at most, the log had forgotten before they were read; logs a warning for them."""
        lost = 0
        for partition, offset in read.items():
            begin = start.get(partition, 0)
            if begin > offset:
                lost += begin - offset
                _logger.warning(
                    "topic %s: log partition %d was trimmed to %d, but read only up to %d: up to %d events"
                    " are lost. Keep them longer (retention=), or ingest them sooner",
                    self._topic,
                    partition,
                    begin,
                    offset,
                    begin - offset,
                )
        return lost


def _find_gaps(asked: Mapping[int, int], batch: Batch) -> dict[int, int]:
    """Log partition → the offset that was asked for, where the first record lies past it."""
    gaps = {}
    for partition, offset in asked.items():
        at = int(np.argmax(batch.partitions == partition))
        if batch.partitions[at] == partition and batch.offsets[at] > offset:
            gaps[partition] = offset
    return gaps
