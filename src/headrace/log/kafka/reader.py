"""Reading from Kafka: a consumer that knows where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from time import monotonic
from typing import Any

import confluent_kafka as ck
import numpy as np

from headrace.log.kafka.cluster import SECONDS
from headrace.log.port import Batch

__all__ = ["COMMITTED", "Reader", "joined"]

COMMITTED = {
    "group.id": "headrace-unused",  # librdkafka wants one; nothing is committed to it
    "enable.auto.commit": False,
    "isolation.level": "read_committed",
    "auto.offset.reset": "earliest",
    "enable.partition.eof": True,
}
"""What a consumer needs that reads what is committed, from offsets that it is given."""

TOGETHER = 500
"""Messages that are received at once. What is needed of them is taken out and they are let go: Python's
garbage collector would walk through many that live, again and again, for a third of all the time."""

_LAST_MILLISECOND = 253_402_300_799_999
"""The end of the year 9999: on a topic with producers' timestamps a record may say anything."""

# Methods of a message are asked for by map and not one by one: a million are received in a second.
_error, _partition, _offset = ck.Message.error, ck.Message.partition, ck.Message.offset


_NOTHING = Batch(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64), [], [], [], {})


class Reader:
    """One consumer of one topic that knows where it stands. One caller at a time."""

    def __init__(self, config: Mapping[str, Any], topic: str) -> None:
        self._topic = topic
        self._consumer = ck.Consumer(
            {
                **config,
                **COMMITTED,
                "allow.auto.create.topics": False,
                "fetch.wait.max.ms": 100,
                "queued.min.messages": 200_000,
                # Its default, a second, is how long a full queue would keep it from fetching.
                "fetch.queue.backoff.ms": 5,
                "fetch.message.max.bytes": 8_000_000,
            }
        )
        self._next: dict[int, int] = {}
        # Where each log partition's end was seen: all before it was received. It lies past the
        # markers that end transactions, which no record shows.
        self._seen: dict[int, int] = {}
        self._kept = _NOTHING  # what `wait` received before it was asked for

    def stands_at(self, offsets: Mapping[int, int]) -> bool:
        return self._next == dict(offsets)

    def next_offsets(self) -> dict[int, int]:
        return dict(self._next)

    def stand(self, offsets: Mapping[int, int]) -> None:
        """Goes to these offsets, unless it is there."""
        if not self.stands_at(offsets):
            self._kept, self._seen = _NOTHING, {}
            self._next = dict(offsets)
            self._consumer.assign([ck.TopicPartition(self._topic, p, offset) for p, offset in offsets.items()])

    def kept(self, limit: int) -> list[Batch]:
        """Up to `limit` of the records that `wait` received, and all that lies here behind them."""
        some, self._kept = self._kept[:limit], self._kept[limit:]
        found: list[Batch] = []
        count = 0
        while len(some):
            self._passed(some)
            found.append(some)
            count += len(some)
            some = self._consume(limit - count, 0.0) if count < limit else _NOTHING
        return found

    def read(self, ends: Mapping[int, int], limit: int) -> list[Batch]:
        """Up to `limit` records; none only where there is nothing before `ends`.

        What others have appended but not committed is waited for only while there is nothing else.
        """
        found: list[Batch] = []
        count = 0
        deadline = monotonic() + SECONDS
        while count < limit and self._before(ends) and not (count and self._saw_all()):
            some = self._consume(limit - count, 0.05)
            self._passed(some)
            found.append(some)
            count += len(some)
            if monotonic() > deadline:
                if count:
                    return found
                raise TimeoutError
        self._next = {partition: max(n, self._seen.get(partition, 0)) for partition, n in self._next.items()}
        return found

    def wait(self, ends: Mapping[int, int], timeout: float) -> bool:
        """Whether there is a record, now or within `timeout` seconds."""
        deadline = monotonic() + timeout
        while not len(self._kept):
            left = deadline - monotonic()
            if left <= 0 and not self._before(ends):
                return False
            if left < -SECONDS:
                raise TimeoutError
            self._kept = self._consume(1, min(0.1, max(0.01, left)))
        return True

    def close(self) -> None:
        self._consumer.close()

    def _saw_all(self) -> bool:
        """Whether the end of what is committed was seen in every log partition."""
        return all(self._seen.get(partition, -1) >= n for partition, n in self._next.items())

    def _before(self, ends: Mapping[int, int]) -> bool:
        return any(max(self._next[p], self._seen.get(p, 0)) < end for p, end in ends.items())

    def _consume(self, limit: int, timeout: float) -> Batch:
        messages = self._consumer.consume(min(limit, TOGETHER), timeout)
        if any(map(_error, messages)):
            messages = self._without_ends(messages)
        found = _columns(messages)
        # An offset past the end makes librdkafka begin anew: what lies before was not asked for.
        if any((found.offsets[found.partitions == p] < first).any() for p, first in self._next.items()):
            return _columns([one for one in messages if one.offset() >= self._next[one.partition()]])
        return found

    def _without_ends(self, messages: Sequence[ck.Message]) -> list[ck.Message]:
        """The records among them; the others say where a log partition ends, or what went wrong."""
        found = []
        for message in messages:
            error = message.error()
            if error is None:
                found.append(message)
            elif error.code() == ck.KafkaError._PARTITION_EOF:
                self._seen[message.partition()] = message.offset()
            else:
                raise ck.KafkaException(error)
        return found

    def _passed(self, found: Batch) -> None:
        for partition in np.unique(found.partitions).tolist():
            self._next[partition] = int(found.offsets[found.partitions == partition][-1]) + 1


def joined(found: Sequence[Batch], next_offsets: dict[int, int]) -> Batch:
    """What was received, one after another, as one batch."""
    some = [*found, _NOTHING]
    return Batch(
        np.concatenate([one.partitions for one in some]),
        np.concatenate([one.offsets for one in some]),
        np.concatenate([one.arrived_at for one in some]),
        list(chain.from_iterable(one.values for one in some)),
        list(chain.from_iterable(one.keys for one in some)),
        list(chain.from_iterable(one.headers for one in some)),
        next_offsets,
    )


def _columns(messages: Sequence[ck.Message]) -> Batch:
    """What is needed of these messages; what comes next is not in it."""
    count = len(messages)
    values: list[bytes] = list(map(ck.Message.value, messages))
    if None in values:
        values = [value or b"" for value in values]
    headers = list(map(ck.Message.headers, messages))
    if headers.count(None) < count:
        headers = [dict(given) if given else None for given in headers]
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
