"""Reading from Kafka: a consumer that knows where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

import confluent_kafka as ck
import numpy as np

from headrace.log.port import Batch

__all__ = ["Reader", "batch_of"]

SECONDS = 30.0  # how long the broker may take to answer


class Reader:
    """One consumer of one topic that knows where it stands. One caller at a time."""

    def __init__(self, config: Mapping[str, Any], topic: str) -> None:
        self._topic = topic
        self._consumer = ck.Consumer(
            {
                **config,
                "group.id": "headrace-unused",  # librdkafka wants one; nothing is committed to it
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "allow.auto.create.topics": False,
                "fetch.wait.max.ms": 100,
                "queued.min.messages": 200_000,
            }
        )
        self._next: dict[int, int] = {}
        # Where each log partition's end was seen: all before it was received. It lies past the
        # markers that end transactions, which no record shows.
        self._seen: dict[int, int] = {}
        self._kept: list[ck.Message] = []  # what `wait` received before it was asked for

    def stands_at(self, offsets: Mapping[int, int]) -> bool:
        return self._next == dict(offsets)

    def next_offsets(self) -> dict[int, int]:
        return dict(self._next)

    def stand(self, offsets: Mapping[int, int]) -> None:
        """Goes to these offsets, unless it is there."""
        if not self.stands_at(offsets):
            self._kept, self._seen = [], {}
            self._next = dict(offsets)
            self._consumer.assign([ck.TopicPartition(self._topic, p, offset) for p, offset in offsets.items()])

    def kept(self, limit: int) -> list[ck.Message]:
        """Up to `limit` of the records that `wait` received, and of those that came right behind them."""
        found, self._kept = self._kept[:limit], self._kept[limit:]
        self._passed(found)
        if 0 < len(found) < limit:
            behind = self._consume(limit - len(found), 0.0)
            self._passed(behind)
            found += behind
        return found

    def read(self, ends: Mapping[int, int], limit: int) -> list[ck.Message]:
        """Up to `limit` records; none only where there is nothing before `ends`.

        What others have appended but not committed is waited for only while there is nothing else.
        """
        found: list[ck.Message] = []
        deadline = monotonic() + SECONDS
        while len(found) < limit and self._before(ends) and not (found and self._saw_all()):
            some = self._consume(limit - len(found), 0.05)
            self._passed(some)
            found += some
            if monotonic() > deadline:
                if found:
                    return found
                raise TimeoutError
        self._next = {partition: max(n, self._seen.get(partition, 0)) for partition, n in self._next.items()}
        return found

    def wait(self, ends: Mapping[int, int], timeout: float) -> bool:
        """Whether there is a record, now or within `timeout` seconds."""
        deadline = monotonic() + timeout
        while not self._kept:
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

    def _consume(self, limit: int, timeout: float) -> list[ck.Message]:
        found = []
        for message in self._consumer.consume(min(limit, 100_000), timeout):
            error = message.error()
            if error is None:
                # An offset past the end makes librdkafka begin anew: what lies before was not asked for.
                if message.offset() >= self._next[message.partition()]:
                    found.append(message)
            elif error.code() == ck.KafkaError._PARTITION_EOF:
                self._seen[message.partition()] = message.offset()
            else:
                raise ck.KafkaException(error)
        return found

    def _passed(self, messages: Sequence[ck.Message]) -> None:
        self._next.update({one.partition(): one.offset() + 1 for one in messages})


def batch_of(messages: list[ck.Message], next_offsets: dict[int, int]) -> Batch:
    """The messages as a batch."""
    return Batch(
        np.array([one.partition() for one in messages], np.int32),
        np.array([one.offset() for one in messages], np.int64),
        np.array([one.timestamp()[1] for one in messages], np.int64) * 1_000,
        [one.value() or b"" for one in messages],
        [one.key() for one in messages],
        [dict(given) if (given := one.headers()) else None for one in messages],
        next_offsets,
    )
