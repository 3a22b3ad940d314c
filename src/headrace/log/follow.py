"""Follows a small topic whose records are state: alerts, releases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from headrace.log.port import Batch, Log

__all__ = ["TopicFollower", "TopicRecord", "read_to_end"]

_BATCH = 1_000
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

T = TypeVar("T")


class TopicRecord(Struct, Generic[T], frozen=True):
    """One decoded record of a topic, and its log position."""

    partition: int
    offset: int
    value: T


class TopicFollower(Generic[T]):
    """Reads a topic from its beginning; each `poll` continues where the last one ended.

    The topic may be missing, appear later, or be deleted and created again; it is then read from its beginning.

    Args:
        log: the log.
        topic: the topic's name.
        decode: decodes an event's bytes. Bytes that it cannot decode are skipped: ingest keeps them in the
            topic's quarantine.

    Attributes:
        log_id: the identity of the topic that was read last; None before the first poll.
    """

    def __init__(self, log: Log, topic: str, decode: Callable[[bytes], T]) -> None:
        self._log, self._topic, self._decode = log, topic, decode
        self._offsets: dict[int, int] = {}
        self.log_id: str | None = None

    def poll(self) -> list[TopicRecord[T]]:
        """Reads the records that were appended since the last poll, in the order of their offsets.

        Raises:
            Unavailable: the log cannot be reached.
        """
        if self._topic not in self._log.topics():
            return []
        log_id = self._log.identity(self._topic)
        if log_id != self.log_id:
            self.log_id = log_id
            self._offsets = dict.fromkeys(range(self._log.partitions(self._topic)), 0)
        records: list[TopicRecord[T]] = []
        offsets = self._offsets  # kept until all is read: if the log fails meanwhile, nothing is skipped
        for batch in read_to_end(self._log, self._topic, offsets):
            offsets = {**offsets, **batch.next}
            places = zip(batch.partitions.tolist(), batch.offsets.tolist(), strict=True)
            for (partition, offset), value in zip(places, batch.values, strict=True):
                try:
                    records.append(TopicRecord(partition, offset, self._decode(value)))
                except _UNDECODABLE:
                    continue
        self._offsets = offsets
        return records


def read_to_end(log: Log, topic: str, offsets: Mapping[int, int], limit: int = _BATCH) -> Iterator[Batch]:
    """Reads batches of at most `limit` records, from these offsets to the ends of the log partitions."""
    while len(batch := log.read(topic, offsets, limit)):
        yield batch
        offsets = batch.next
