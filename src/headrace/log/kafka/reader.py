"""Reads from Kafka, through consumers that remember how far they have read and are kept for further reads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from time import monotonic
from typing import Any

import confluent_kafka as ck
import numpy as np

from headrace.log.kafka.connection import SECONDS
from headrace.log.port import Batch

__all__ = ["READ_COMMITTED", "KafkaReader", "KafkaReaders"]

READ_COMMITTED = {
    "group.id": "headrace-unused",  # librdkafka needs one; nothing is committed to it
    "enable.auto.commit": False,
    "isolation.level": "read_committed",
    "auto.offset.reset": "earliest",
    "enable.partition.eof": True,
}
"""Settings of a consumer that reads committed records, from offsets that it is given."""

IDLE_READERS = 4  # consumers that are kept for each topic, each where its last batch ended
CONSUME_MESSAGES = 500
"""Messages that are received at once. Their columns are copied and the messages freed: with many live messages,
Python's garbage collector would take a third of the time."""

_LAST_MILLISECOND = 253_402_300_799_999
"""The end of the year 9999: on a topic with producers' timestamps a record may have any time."""

# Methods of messages are called through map, which is faster: a million messages are received in a second.
_error, _partition, _offset = ck.Message.error, ck.Message.partition, ck.Message.offset

_EMPTY = Batch(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64), [], [], [], {})


class KafkaReader:
    """One consumer of one topic that knows how far it has read. One thread at a time may use it."""

    def __init__(self, config: Mapping[str, Any], topic: str) -> None:
        self._topic = topic
        self._consumer = ck.Consumer(
            {
                **config,
                **READ_COMMITTED,
                "allow.auto.create.topics": False,
                "fetch.wait.max.ms": 100,
                "queued.min.messages": 200_000,
                # By default a full queue stops the next fetch for a second.
                "fetch.queue.backoff.ms": 5,
                "fetch.message.max.bytes": 8_000_000,
            }
        )
        self._next: dict[int, int] = {}
        # Log partition → its end when it was last reached: all records before it have been received. The end
        # lies after transaction markers, which are not received as records.
        self._ends: dict[int, int] = {}
        self._buffer = _EMPTY  # records that `wait` received, for the next `read`

    def is_at(self, offsets: Mapping[int, int]) -> bool:
        """Whether it reads these offsets next."""
        return self._next == dict(offsets)

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Moves to these offsets, unless it reads them next anyway."""
        if not self.is_at(offsets):
            self._buffer, self._ends = _EMPTY, {}
            self._next = dict(offsets)
            self._consumer.assign([ck.TopicPartition(self._topic, p, offset) for p, offset in offsets.items()])

    def read(self, ends: Callable[[], Mapping[int, int]], limit: int) -> Batch:
        """Reads at most `limit` records (Log.read).

        Args:
            ends: returns the next offsets to be written.
            limit: the most records.

        Raises:
            TimeoutError: no records arrived in time.
            ck.KafkaException: the client failed.
        """
        return _join(self._read_buffer(limit) or self._read_to(ends(), limit), dict(self._next))

    def wait(self, ends: Mapping[int, int], timeout: float) -> bool:
        """Waits for a record; whether there is one within `timeout` seconds (Log.wait).

        Args:
            ends: the next offsets to be written.
            timeout: seconds.
        """
        deadline = monotonic() + timeout
        while not len(self._buffer):
            left = deadline - monotonic()
            if left <= 0 and not self._is_before(ends):
                return False
            if left < -SECONDS:
                raise TimeoutError
            self._buffer = self._consume(1, min(0.1, max(0.01, left)))
        return True

    def close(self) -> None:
        """Closes the consumer."""
        self._consumer.close()

    def _read_buffer(self, limit: int) -> list[Batch]:
        """Takes up to `limit` of the records that `wait` or the client has received already."""
        part, self._buffer = self._buffer[:limit], self._buffer[limit:]
        parts: list[Batch] = []
        count = 0
        while len(part):
            self._move_past(part)
            parts.append(part)
            count += len(part)
            part = self._consume(limit - count, 0.0) if count < limit else _EMPTY
        return parts

    def _read_to(self, ends: Mapping[int, int], limit: int) -> list[Batch]:
        """Receives up to `limit` records; none only if there is nothing before `ends`.

        It waits for uncommitted transactions only as long as it has no record.
        """
        parts: list[Batch] = []
        count = 0
        deadline = monotonic() + SECONDS
        while count < limit and self._is_before(ends) and not (count and self._has_reached_ends()):
            part = self._consume(limit - count, 0.05)
            self._move_past(part)
            parts.append(part)
            count += len(part)
            if monotonic() > deadline:
                if count:
                    return parts
                raise TimeoutError
        self._next = {partition: max(n, self._ends.get(partition, 0)) for partition, n in self._next.items()}
        return parts

    def _has_reached_ends(self) -> bool:
        """Whether it has read all committed records of every log partition."""
        return all(self._ends.get(partition, -1) >= n for partition, n in self._next.items())

    def _is_before(self, ends: Mapping[int, int]) -> bool:
        return any(max(self._next[p], self._ends.get(p, 0)) < end for p, end in ends.items())

    def _consume(self, limit: int, timeout: float) -> Batch:
        messages = self._consumer.consume(min(limit, CONSUME_MESSAGES), timeout)
        if any(map(_error, messages)):
            messages = self._note_ends(messages)
        batch = _to_batch(messages)
        # At an offset after the end librdkafka starts from the beginning: those records are dropped.
        if any((batch.offsets[batch.partitions == p] < first).any() for p, first in self._next.items()):
            return _to_batch([m for m in messages if m.offset() >= self._next[m.partition()]])
        return batch

    def _note_ends(self, messages: Sequence[ck.Message]) -> list[ck.Message]:
        """Separates the records from these messages; stores the ends of log partitions, and raises errors."""
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
            elif error.code() == ck.KafkaError._PARTITION_EOF:
                self._ends[message.partition()] = message.offset()
            else:
                raise ck.KafkaException(error)
        return records

    def _move_past(self, batch: Batch) -> None:
        for partition in np.unique(batch.partitions).tolist():
            self._next[partition] = int(batch.offsets[batch.partitions == partition][-1]) + 1


class KafkaReaders:
    """The readers of one log; each is lent to one caller at a time. Any thread may use it."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._idle: dict[str, list[KafkaReader]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def borrow(self, topic: str, offsets: Mapping[int, int]) -> Iterator[KafkaReader]:
        """Lends a reader of the topic at these offsets. It is discarded if the block raises."""
        with self._lock:
            idle = self._idle.setdefault(topic, [])
            fitting = [reader for reader in idle if reader.is_at(offsets)]
            reader = fitting[0] if fitting else (idle[0] if len(idle) >= IDLE_READERS else None)
            if reader is not None:
                idle.remove(reader)
        if reader is None:
            reader = KafkaReader(self._config, topic)
        try:
            reader.seek(offsets)
            yield reader
        except BaseException:
            reader.close()
            raise
        with self._lock:
            self._idle.setdefault(topic, []).append(reader)

    def close(self) -> None:
        """Closes the idle readers."""
        with self._lock:
            readers = list(chain.from_iterable(self._idle.values()))
            self._idle.clear()
        for reader in readers:
            reader.close()


def _join(parts: Sequence[Batch], next_offsets: dict[int, int]) -> Batch:
    """The parts, one after another, as one batch."""
    batches = [*parts, _EMPTY]
    return Batch(
        np.concatenate([batch.partitions for batch in batches]),
        np.concatenate([batch.offsets for batch in batches]),
        np.concatenate([batch.arrived_at for batch in batches]),
        list(chain.from_iterable(batch.values for batch in batches)),
        list(chain.from_iterable(batch.keys for batch in batches)),
        list(chain.from_iterable(batch.headers for batch in batches)),
        next_offsets,
    )


def _to_batch(messages: Sequence[ck.Message]) -> Batch:
    """The columns of these messages; `next` is empty."""
    count = len(messages)
    values: list[bytes] = list(map(ck.Message.value, messages))
    if None in values:
        values = [value or b"" for value in values]
    headers = list(map(ck.Message.headers, messages))
    if headers.count(None) < count:
        headers = [dict(items) if items else None for items in headers]
    millis = [millis for _, millis in map(ck.Message.timestamp, messages)]
    return Batch(
        np.fromiter(map(_partition, messages), np.int32, count),
        np.fromiter(map(_offset, messages), np.int64, count),
        np.array(millis, np.int64).clip(0, _LAST_MILLISECOND) * 1_000,
        values,
        list(map(ck.Message.key, messages)),
        headers,
        {},
    )
