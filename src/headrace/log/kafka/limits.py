"""How large a record may be on Kafka: each topic's own limit, as the brokers tell it.

A producer has a limit of its own (librdkafka: 1,000,000 bytes), which knows nothing of the topic's, and sends
several records as one batch, which the broker measures. So a producer is made for a topic's limit: it takes
what the topic takes, and no batch of several records is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic
from typing import NamedTuple

import confluent_kafka as ck

from headrace.log.port import OVERHEAD

__all__ = ["Limit", "Limits", "RecordsRefused", "is_too_large"]

USUAL = 1_048_588  # bytes: what a broker takes unless it is told otherwise
_MOST = 64 << 20  # bytes: our readers take no answer over 100 MB, whatever a topic takes
_LEAST = 1_000  # bytes: librdkafka takes no lower limit
_BATCH = 1_000_000  # bytes: librdkafka's own
_SECONDS = 60.0  # how long what a broker said about a topic is believed


class Limit(NamedTuple):
    """A topic's limit.

    Attributes:
        size: bytes of a batch, of one record or several, as the broker measures it.
        batch: bytes of records that are sent as one batch; 1: each record alone.
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


class RecordsRefused(Exception):
    """A broker refused a batch as too large.

    Args:
        places: the records in it, counted from 0. Where each record was sent alone, these are too large.
    """

    def __init__(self, places: Iterable[int]) -> None:
        self.places = sorted(places)
        super().__init__(f"too large: records {self.places}")


class Limits:
    """The topics' limits.

    Args:
        ask: the broker's limit for a topic; None: this user may not ask.
    """

    def __init__(self, ask: Callable[[str], int | None]) -> None:
        self._ask = ask
        self._known: dict[str, tuple[Limit, float]] = {}

    def of(self, topic: str) -> Limit:
        """The topic's limit now; a change is seen within a minute, or with `note_refusal`."""
        known = self._known.get(topic)
        if known is None or monotonic() > known[1]:
            size = min(self._ask(topic) or USUAL, _MOST)
            known = self._known[topic] = Limit(size, min(_BATCH, size)), monotonic() + _SECONDS
        return known[0]

    def of_all(self, topics: Iterable[str]) -> Limit:
        """The limit for a producer that writes to all of these topics."""
        limits = [self.of(topic) for topic in topics]
        return Limit(max(limit.size for limit in limits), min(limit.batch for limit in limits))

    def note_refusal(self, topics: Iterable[str]) -> None:
        """Notes that a broker refused a batch for these topics that lay within their limits. Where it does not
        tell a lower limit, each record goes alone for a while, so that its refusals name the large ones."""
        before = {topic: self.of(topic).size for topic in topics}
        for topic in before:
            self._known.pop(topic, None)
        if all(self.of(topic).size >= size for topic, size in before.items()):
            for topic in before:
                self._known[topic] = self.of(topic)._replace(batch=1), monotonic() + _SECONDS


def is_too_large(error: ck.KafkaError) -> bool:
    """Whether a broker refuses a batch for its size, and always will."""
    return error.code() in (ck.KafkaError.MSG_SIZE_TOO_LARGE, ck.KafkaError.RECORD_LIST_TOO_LARGE)
