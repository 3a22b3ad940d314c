"""The size limit of a record on Kafka: each topic's limit, as the brokers report it.

A producer's limit (librdkafka: 1,000,000 bytes) is independent of the topic's, and the broker checks the size
of a batch, in which a producer sends several records. So each topic limit has a producer with matching
settings: it accepts the records that the topic accepts, and no batch of several records is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic

import confluent_kafka as ck
from msgspec import Struct
from msgspec.structs import replace

from headrace.log.port import OVERHEAD

__all__ = ["BatchRefused", "TopicLimit", "TopicLimits", "is_too_large"]

DEFAULT = 1_048_588  # bytes: a broker's own default
_MOST = 64 << 20  # bytes: our readers accept no answer over 100 MB, whatever a topic accepts
_LEAST = 1_000  # bytes: librdkafka accepts no lower limit
_BATCH = 1_000_000  # bytes: librdkafka's default
_SECONDS = 60.0  # how long a broker's answer is used


class TopicLimit(Struct, frozen=True):
    """A topic's limit.

    Attributes:
        size: the most bytes of a batch, of one record or several, as the broker measures it.
        batch: the most bytes of records that are sent as one batch; 1: each record is sent alone.
    """

    size: int
    batch: int

    @property
    def largest(self) -> int:
        """Bytes of a record (headrace.log.port.record_sizes)."""
        return self.size - OVERHEAD

    @property
    def config(self) -> dict[str, int]:
        """A producer's settings."""
        return {"message.max.bytes": max(self.size, _LEAST), "batch.size": self.batch}


class BatchRefused(Exception):
    """A broker refused records of a transaction.

    Attributes:
        too_large: places of the records in batches that were too large. If each record was sent alone, these
            are the records that are too large.
        invalid: places of records in batches that the broker refused as invalid.
    """

    def __init__(self, too_large: Iterable[int], invalid: Iterable[int]) -> None:
        self.too_large, self.invalid = sorted(too_large), sorted(invalid)
        super().__init__(f"too large: records {self.too_large}; invalid: records {self.invalid}")


class TopicLimits:
    """The limits of topics.

    Args:
        ask: reads a topic's limit from the broker; None: this user may not read it.
    """

    def __init__(self, ask: Callable[[str], int | None]) -> None:
        self._ask = ask
        self._cache: dict[str, tuple[TopicLimit, float]] = {}

    def of(self, topic: str) -> TopicLimit:
        """The topic's limit; a change is known within a minute, or after `note_refusal`."""
        cached = self._cache.get(topic)
        if cached is None or monotonic() > cached[1]:
            size = min(self._ask(topic) or DEFAULT, _MOST)
            cached = self._cache[topic] = TopicLimit(size, min(_BATCH, size)), monotonic() + _SECONDS
        return cached[0]

    def of_all(self, topics: Iterable[str]) -> TopicLimit:
        """The limit for a producer that writes to all of these topics."""
        limits = [self.of(topic) for topic in topics]
        return TopicLimit(max(limit.size for limit in limits), min(limit.batch for limit in limits))

    def note_refusal(self, topics: Iterable[str]) -> None:
        """Records that a broker refused a batch that was within the limits of these topics.

        If the broker reports no lower limit, each record is sent alone for a minute, so that the broker's
        refusals identify the large records.
        """
        before = {topic: self.of(topic).size for topic in topics}
        for topic in before:
            self._cache.pop(topic, None)
        if all(self.of(topic).size >= size for topic, size in before.items()):
            for topic in before:
                self._cache[topic] = replace(self.of(topic), batch=1), monotonic() + _SECONDS


def is_too_large(error: ck.KafkaError) -> bool:
    """Whether the error is a broker's permanent refusal of a batch for its size."""
    return error.code() in (ck.KafkaError.MSG_SIZE_TOO_LARGE, ck.KafkaError.RECORD_LIST_TOO_LARGE)
