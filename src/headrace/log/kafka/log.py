"""The log on Kafka (see headrace.log.port.Log), through librdkafka.

A record's arrival is the broker's append time if the topic is set so (topics that Headrace creates are),
otherwise the time that its producer set. Either stays the same however often the record is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import NoReturn

from headrace.kernel.errors import RecordsRefused, Refused
from headrace.kernel.extras import describe_missing
from headrace.kernel.topics import SYSTEM
from headrace.log.partition import partition_of
from headrace.log.port import Batch, Headers, check_lengths, check_sizes, record_sizes
from headrace.log.slot import MemberSlot

try:
    import confluent_kafka  # noqa: F401
except ImportError as missing:
    raise describe_missing("confluent_kafka", "a log on Kafka", where="headrace.toml: log") from missing

from headrace.log.kafka.connection import KafkaConnection
from headrace.log.kafka.forwarder import KafkaForwarder
from headrace.log.kafka.limits import BatchRefused, TopicLimits
from headrace.log.kafka.member import KafkaMember
from headrace.log.kafka.names import TopicNames
from headrace.log.kafka.reader import KafkaReaders
from headrace.log.kafka.topics import KafkaTopics
from headrace.log.kafka.writer import KafkaWriters

__all__ = ["KafkaLog"]

_SMALLER = "Make the events smaller, or raise the topic's max.message.bytes."


class KafkaLog:
    """Topics on a Kafka cluster.

    Args:
        brokers: `host:port,...`.
        project: the project whose system topics it has; None: it has none.
    """

    is_dense = False

    def __init__(self, brokers: str, project: str | None = None) -> None:
        self._connection = KafkaConnection(brokers)
        self._names = TopicNames(project, self._connection.where)
        self._topics = KafkaTopics(self._connection)
        self._limits = TopicLimits(self._topics.largest_batch)
        self._readers = KafkaReaders(self._connection.config)
        self._writers = KafkaWriters(self._connection.config)
        self._turn = count()

    def create(self, topic: str, partitions: int = 1, retention: timedelta | None = None) -> None:
        stored = self._names.to_stored(topic)
        if stored != topic and not self._topics.exists(stored):
            self._names.check_earlier(topic, self._topics.names())
        self._topics.create(stored, partitions, retention)

    def retention(self, topic: str) -> timedelta | None:
        return self._topics.retention(self._names.to_stored(topic))

    def topics(self) -> list[str]:
        return self._names.to_topics(self._topics.names())

    def identity(self, topic: str) -> str:
        return self._topics.identity(self._names.to_stored(topic))

    def partitions(self, topic: str) -> int:
        return self._topics.partitions(self._names.to_stored(topic))

    def grow(self, topic: str, partitions: int) -> None:
        """Adds log partitions until the topic has this number (KafkaTopics.grow)."""
        self._topics.grow(self._names.to_stored(topic), partitions)

    def append(
        self,
        topic: str,
        values: Sequence[bytes],
        keys: Sequence[bytes | None] | None = None,
        headers: Sequence[Headers | None] | None = None,
    ) -> list[tuple[int, int]]:
        check_lengths(topic, values, keys, headers)
        topic = self._names.to_stored(topic)
        partitions = self._topics.partitions(topic)
        if not values:
            return []
        keyless = next(self._turn) % partitions
        keys = keys or [None] * len(values)
        headers = headers or [None] * len(values)
        records = [
            (topic, keyless if key is None else partition_of(key, partitions), value, key, header)
            for value, key, header in zip(values, keys, headers, strict=True)
        ]
        sizes = record_sizes(values, keys, headers)
        where = f"{self._connection.where}, topic {topic}"
        with self._connection.name_errors():
            while True:
                limit = self._limits.of(topic)
                check_sizes(topic, sizes, limit.largest, where, _SMALLER)
                try:
                    return self._writers.get(limit).append(records)
                except BatchRefused as refusal:
                    if refusal.invalid:
                        self._raise_invalid(topic, keys, refusal.invalid, where)
                    if limit.batch == 1 and refusal.too_large:
                        smallest = min(sizes[place] for place in refusal.too_large)
                        check_sizes(topic, sizes, smallest - 1, where, _SMALLER)
                    self._limits.note_refusal([topic])  # the limit was lowered, or the broker reports none

    def _raise_invalid(
        self, topic: str, keys: Sequence[bytes | None], places: Sequence[int], where: str
    ) -> NoReturn:
        """Raises RecordsRefused for an append in which the broker refused these records as invalid."""
        keyless = [place for place, key in enumerate(keys) if key is None]
        if keyless and self._topics.is_compacted(topic):
            raise RecordsRefused(
                f"topic {topic!r} is compacted and accepts no record without a key: {len(keyless):,} of"
                f" {len(keys):,} have none",
                where=where,
                remedy="Declare the contract with key=, or set the topic's cleanup.policy to delete.",
                places=keyless,
            )
        raise RecordsRefused(
            f"the broker refuses up to {len(places):,} of {len(keys):,} records for topic {topic!r} as invalid",
            where=where,
            remedy="Look for the reason in the broker's log.",
            places=places,
        )

    def largest(self, topic: str) -> int:
        topic = self._names.to_stored(topic)
        self._topics.partitions(topic)
        with self._connection.name_errors():
            return self._limits.of(topic).largest

    def read(self, topic: str, offsets: Mapping[int, int], limit: int) -> Batch:
        topic = self._names.to_stored(topic)
        self._topics.partitions(topic)
        with self._connection.name_errors(), self._readers.borrow(topic, offsets) as reader:
            return reader.read(lambda: self._topics.end(topic, offsets), limit)

    def wait(self, topic: str, offsets: Mapping[int, int], timeout: float) -> bool:
        topic = self._names.to_stored(topic)
        self._topics.partitions(topic)
        with self._connection.name_errors(), self._readers.borrow(topic, offsets) as reader:
            return reader.wait(self._topics.end(topic, offsets), timeout)

    def start(self, topic: str) -> dict[int, int]:
        return self._topics.start(self._names.to_stored(topic))

    def end(self, topic: str) -> dict[int, int]:
        return self._topics.end(self._names.to_stored(topic))

    def trim(self, topic: str, offsets: Mapping[int, int]) -> None:
        self._topics.trim(self._names.to_stored(topic), offsets)

    def join(
        self, topic: str, group: str, folder: Path, settle: Callable[[], None] = lambda: None
    ) -> KafkaMember:
        topic = self._names.to_stored(topic)
        self._topics.partitions(topic)
        slot = MemberSlot(folder, f"{group}-{topic}")
        with self._connection.name_errors():
            return KafkaMember(self._connection.config, topic, group, slot, settle)

    def forwarder(self, name: str, partitions: int, topics: Sequence[str]) -> KafkaForwarder:
        """Opens a forwarder to these topics, whose transactions also store a position (KafkaForwarder).

        Raises:
            Refused: another project has a forwarder of this name.
        """
        stored = self._names.to_stored(name)

        def create_positions(topic: str, partitions: int) -> None:
            if stored != name:
                self._check_sole(name, stored, topics)
            self._topics.create_compacted(topic, partitions)
            if stored != name:  # of two projects that begin at once, at least one finds the other
                self._check_sole(name, stored, topics)

        return KafkaForwarder(
            self._connection.config, stored, partitions, create_positions, self._limits, topics
        )

    def _check_sole(self, name: str, stored: str, topics: Sequence[str]) -> None:
        """Raises Refused if the cluster has the positions of another project's forwarder of this name, or those
        that an earlier Headrace stored."""
        ending = name.removeprefix(SYSTEM.rstrip("."))
        names = self._topics.names()
        if name in names:
            raise Refused(
                "an earlier Headrace forwarded this topic, and stored its positions where all projects did",
                where=f"{self._connection.where}, topic {name}",
                remedy=f"Copy its records, with their keys and log partitions, to a compacted topic {stored!r}."
                " Then delete it. Without its positions every event would be forwarded again.",
            )
        for other in names:
            if other.startswith(SYSTEM) and other.endswith(ending) and other != stored:
                raise Refused(
                    f"another project forwards the same topic to {' and '.join(topics)}: these would have each"
                    " event twice",
                    where=f"{self._connection.where}, topic {other}",
                    remedy="Forward to other topics. If the other project forwards no more, delete that topic.",
                )

    def close(self) -> None:
        self._readers.close()
        self._writers.close()
