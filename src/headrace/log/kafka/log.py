"""The log on Kafka (see headrace.log.port.Log), through librdkafka.

Appends are transactions: threads that append at the same time share one, so that the broker is
waited for once. Readers are read_committed.

A record's arrival is the broker's append time where the topic says so (those made here do), else
the time its producer gave it; either stays the same whenever the record is read again.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import TypeVar

from headrace.kernel.errors import CallError, Unavailable
from headrace.kernel.extras import describe_missing
from headrace.log.partition import partition_of
from headrace.log.port import Batch, Headers, check_lengths, check_sizes, record_sizes
from headrace.log.slot import Slot

try:
    import confluent_kafka as ck
    from confluent_kafka import admin as ck_admin
except ImportError as missing:
    raise describe_missing("confluent_kafka", "a log on Kafka", where="headrace.toml: log") from missing

from headrace.log.kafka.cluster import SECONDS, Cluster
from headrace.log.kafka.forwarder import Forwarder
from headrace.log.kafka.limits import Limit, Limits, RecordsRefused
from headrace.log.kafka.member import KafkaMember
from headrace.log.kafka.reader import Reader, joined
from headrace.log.kafka.writer import Writer

__all__ = ["KafkaLog"]

READERS = 4  # consumers kept for each topic, each where its last batch ended
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
# Nobody leads a log partition at the moment, or the client's picture of who does is older or newer
# than the broker's, as when one comes or goes: ask again.
_STALE = (
    ck.KafkaError.FENCED_LEADER_EPOCH,
    ck.KafkaError.LEADER_NOT_AVAILABLE,
    ck.KafkaError.NOT_LEADER_FOR_PARTITION,
    ck.KafkaError.UNKNOWN_LEADER_EPOCH,
    ck.KafkaError._NOENT,
)
_RETENTION = "retention.ms"
_SIZES = ("max.message.bytes", "segment.bytes")  # each is a limit of a batch
_NOT_ALLOWED = (ck.KafkaError.TOPIC_AUTHORIZATION_FAILED, ck.KafkaError.CLUSTER_AUTHORIZATION_FAILED)
_SMALLER = "Make the events smaller, or raise the topic's max.message.bytes."

T = TypeVar("T")


class KafkaLog:
    """Topics on a Kafka cluster.

    Args:
        brokers: `host:port,...`.
    """

    def __init__(self, brokers: str) -> None:
        self._cluster = Cluster(brokers)
        self._counts: dict[str, int] = {}
        self._readers: dict[str, list[Reader]] = {}
        self._lock = threading.Lock()
        self._limits = Limits(self._ask_limit)
        self._writers: dict[Limit, Writer] = {}
        self._turn = itertools.count()

    def create(self, topic: str, partitions: int = 1, retention: timedelta | None = None) -> None:
        if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
            raise CallError(
                f"{topic!r} is no topic's name", remedy="Use letters, digits, '.', '_' and '-', at most 249."
            )
        if partitions < 1:
            raise CallError(f"topic {topic!r} needs at least one log partition, not {partitions}")
        config = {"message.timestamp.type": "LogAppendTime", _RETENTION: _millis(retention)}
        made = self._make(topic, partitions, config)
        if not made and retention is not None and self.retention(topic) != retention:
            with self._cluster.reached():
                self._keep(topic, retention)

    def _make(self, topic: str, partitions: int, config: Mapping[str, str]) -> bool:
        """Makes the topic if it is not there; whether it was made."""
        new = ck_admin.NewTopic(topic, partitions, replication_factor=-1, config=dict(config))
        with self._cluster.reached():
            try:
                self._cluster.admin.create_topics([new], operation_timeout=SECONDS)[topic].result(SECONDS)
                made = True
            except ck.KafkaException as error:
                code = error.args[0].code()
                if code == ck.KafkaError.TOPIC_AUTHORIZATION_FAILED and topic not in self.topics():
                    raise Unavailable(
                        f"this user may not make topic {topic!r}",
                        where=self._cluster.where,
                        remedy=f"Have it made with log partitions ({partitions}?), or let this user make it.",
                    ) from error
                if code not in (ck.KafkaError.TOPIC_ALREADY_EXISTS, ck.KafkaError.TOPIC_AUTHORIZATION_FAILED):
                    raise
                made = False
            self._until_known(topic)
        return made

    def grow(self, topic: str, partitions: int) -> None:
        """Gives a topic more log partitions, up to so many; keys then go to others than before.

        Raises:
            CallError: there is no such topic.
            Unavailable: the broker is away.
        """
        self.identity(topic)
        if self.partitions(topic) >= partitions:
            return
        with self._cluster.reached():
            more = self._cluster.admin.create_partitions([ck_admin.NewPartitions(topic, partitions)])[topic]
            try:
                more.result(SECONDS)
            except ck.KafkaException as error:
                if error.args[0].code() != ck.KafkaError.INVALID_PARTITIONS:  # another was faster
                    raise
            self._until_known(topic, partitions)
        self._counts[topic] = partitions

    def retention(self, topic: str) -> timedelta | None:
        self.partitions(topic)
        with self._cluster.reached():
            millis = int(self._settings(topic)[_RETENTION].value)
        return None if millis < 0 else timedelta(milliseconds=millis)

    def _settings(self, topic: str) -> dict[str, ck_admin.ConfigEntry]:
        """The topic's settings by name."""
        of = ck_admin.ConfigResource(ck_admin.ConfigResource.Type.TOPIC, topic)
        settings: dict[str, ck_admin.ConfigEntry] = self._cluster.admin.describe_configs([of])[of].result(
            SECONDS
        )
        return settings

    def _keep(self, topic: str, retention: timedelta) -> None:
        entry = ck_admin.ConfigEntry(
            _RETENTION, _millis(retention), incremental_operation=ck_admin.AlterConfigOpType.SET
        )
        of = ck_admin.ConfigResource(ck_admin.ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        self._cluster.admin.incremental_alter_configs([of])[of].result(SECONDS)

    def topics(self) -> list[str]:
        with self._cluster.reached():
            names = self._cluster.admin.list_topics(timeout=SECONDS).topics
        return sorted(name for name in names if not name.startswith("__"))

    def identity(self, topic: str) -> str:
        with self._cluster.reached():
            try:
                return str(self._told(topic, self._topic_id))
            except ck.KafkaException as error:
                if error.args[0].code() == ck.KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise _no_topic(topic, self._cluster.where) from error
                raise

    def _topic_id(self, topic: str) -> ck.Uuid:
        told = self._cluster.admin.describe_topics(ck.TopicCollection([topic]))[topic].result(SECONDS)
        self._counts[topic] = len(told.partitions)  # it may have got more
        return told.topic_id

    def partitions(self, topic: str) -> int:
        if topic not in self._counts:
            with self._cluster.reached():
                found = self._cluster.admin.list_topics(timeout=SECONDS).topics.get(topic)
            if found is None or found.error is not None:
                raise _no_topic(topic, self._cluster.where)
            self._counts[topic] = len(found.partitions)
        return self._counts[topic]

    def append(
        self,
        topic: str,
        values: Sequence[bytes],
        keys: Sequence[bytes | None] | None = None,
        headers: Sequence[Headers | None] | None = None,
    ) -> list[tuple[int, int]]:
        check_lengths(topic, values, keys, headers)
        count = self.partitions(topic)
        if not values:
            return []
        keyless = next(self._turn) % count
        records = [
            (topic, keyless if key is None else partition_of(key, count), value, key, header)
            for value, key, header in zip(
                values, keys or [None] * len(values), headers or [None] * len(values), strict=True
            )
        ]
        sizes = record_sizes(values, keys, headers)
        where = f"{self._cluster.where}, topic {topic}"
        with self._cluster.reached():
            while True:
                limit = self._limits.of(topic)
                check_sizes(topic, sizes, limit.largest, where, _SMALLER)
                try:
                    return self._writer(limit).append(records)
                except RecordsRefused as refused:  # the limit was lowered, or is not told
                    if limit.batch == 1 and refused.places:
                        smallest = min(sizes[place] for place in refused.places)
                        check_sizes(topic, sizes, smallest - 1, where, _SMALLER)
                    self._limits.note_refusal([topic])

    def largest(self, topic: str) -> int:
        self.partitions(topic)
        with self._cluster.reached():
            return self._limits.of(topic).largest

    def _ask_limit(self, topic: str) -> int | None:
        try:
            settings = self._settings(topic)
        except ck.KafkaException as error:
            if error.args[0].code() in _NOT_ALLOWED:
                return None
            raise
        return min(int(settings[name].value) for name in _SIZES)

    def _writer(self, limit: Limit) -> Writer:
        """The producer for topics of this limit; a new one where the last one is broken."""
        with self._lock:
            writer = self._writers.get(limit)
            if writer is None or writer.broken:
                writer = self._writers[limit] = Writer(self._cluster.config, limit)
            return writer

    def read(self, topic: str, offsets: Mapping[int, int], limit: int) -> Batch:
        self.partitions(topic)
        with self._cluster.reached(), self._reader(topic, offsets) as reader:
            found = reader.kept(limit) or reader.read(self._ends(topic, offsets), limit)
            return joined(found, reader.next_offsets())

    def wait(self, topic: str, offsets: Mapping[int, int], timeout: float) -> bool:
        self.partitions(topic)
        with self._cluster.reached(), self._reader(topic, offsets) as reader:
            return reader.wait(self._ends(topic, offsets), timeout)

    def start(self, topic: str) -> dict[int, int]:
        return self._bounds(topic, range(self.partitions(topic)), ck_admin.OffsetSpec.earliest())

    def end(self, topic: str) -> dict[int, int]:
        return self._ends(topic, range(self.partitions(topic)))

    def trim(self, topic: str, offsets: Mapping[int, int]) -> None:
        self.partitions(topic)
        parts = [ck.TopicPartition(topic, p, offset) for p, offset in offsets.items()]

        def trimmed(_: str) -> None:
            for one in self._cluster.admin.delete_records(parts, request_timeout=SECONDS).values():
                one.result(SECONDS)

        with self._cluster.reached():
            self._told(topic, trimmed)

    def join(
        self, topic: str, group: str, folder: Path, settle: Callable[[], None] = lambda: None
    ) -> KafkaMember:
        self.partitions(topic)
        slot = Slot(folder, f"{group}-{topic}")
        with self._cluster.reached():
            return KafkaMember(self._cluster.config, topic, group, slot, settle)

    def forwarder(self, name: str, partitions: int, topics: Sequence[str]) -> Forwarder:
        """What forwards records to these topics in transactions that hold a position as well."""

        def have(count: int) -> None:
            self._make(name, count, {"cleanup.policy": "compact", "segment.ms": "3600000"})
            self.grow(name, count)

        return Forwarder(self._cluster.config, name, partitions, have, self._limits, topics)

    def close(self) -> None:
        with self._lock:
            readers = [one for some in self._readers.values() for one in some]
            self._readers.clear()
            writers = list(self._writers.values())
            self._writers.clear()
        for reader in readers:
            reader.close()
        for writer in writers:
            writer.close()

    def _ends(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        return self._bounds(topic, partitions, ck_admin.OffsetSpec.latest())

    def _bounds(self, topic: str, partitions: Iterable[int], which: ck_admin.OffsetSpec) -> dict[int, int]:
        # Not through the consumer: its connection is held up by the fetch that waits for more. The
        # end counts what is not committed yet: a commit is answered before its readers see it, and
        # whoever reads after an append must not find nothing.
        asked = {ck.TopicPartition(topic, partition): which for partition in partitions}

        def bounds(_: str) -> dict[int, int]:
            told = self._cluster.admin.list_offsets(asked, request_timeout=SECONDS)
            return {one.partition: future.result(SECONDS).offset for one, future in told.items()}

        with self._cluster.reached():
            return self._told(topic, bounds)

    def _told(self, topic: str, ask: Callable[[str], T]) -> T:
        """What the brokers say once it is settled who leads."""
        deadline = monotonic() + SECONDS
        while True:
            try:
                return ask(topic)
            except ck.KafkaException as error:
                if error.args[0].code() not in _STALE or monotonic() > deadline:
                    raise
                self._until_known(topic)

    def _until_known(self, topic: str, partitions: int = 1) -> None:
        """A topic is there, or has grown, before every broker tells of it: waits for its leaders."""
        deadline = monotonic() + SECONDS
        while monotonic() < deadline:
            found = self._cluster.admin.list_topics(topic, timeout=SECONDS).topics[topic]
            leaders = [p.leader for p in found.partitions.values() if p.error is None]
            if (
                found.error is None
                and len(leaders) == len(found.partitions) >= partitions
                and min(leaders) >= 0
            ):
                return
            sleep(0.02)
        raise Unavailable(f"topic {topic!r} has no leader after {SECONDS:g} s", where=self._cluster.where)

    @contextmanager
    def _reader(self, topic: str, offsets: Mapping[int, int]) -> Iterator[Reader]:
        """A consumer for this caller alone: one that stands at these offsets, else another, else a new one."""
        with self._lock:
            idle = self._readers.setdefault(topic, [])
            standing = [one for one in idle if one.stands_at(offsets)]
            reader = standing[0] if standing else (idle[0] if len(idle) >= READERS else None)
            if reader is not None:
                idle.remove(reader)
        if reader is None:
            reader = Reader(self._cluster.config, topic)
        try:
            reader.stand(offsets)
            yield reader
        except BaseException:
            reader.close()
            raise
        with self._lock:
            self._readers.setdefault(topic, []).append(reader)


def _millis(retention: timedelta | None) -> str:
    return "-1" if retention is None else str(retention // timedelta(milliseconds=1))


def _no_topic(topic: str, where: str) -> CallError:
    return CallError(f"there is no topic {topic!r}", where=where)
