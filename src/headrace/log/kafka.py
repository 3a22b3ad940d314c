"""The log on Kafka (see headrace.log.port.Log), through librdkafka.

Appends are transactions: threads that append at the same time share one, so that the broker is
waited for once. Readers are read_committed. What else the clients need (TLS, SASL) comes from the
environment: HEADRACE_KAFKA_SECURITY_PROTOCOL is librdkafka's `security.protocol`, and so on.

A record's arrival is the broker's append time where the topic says so (those made here do), else
the time its producer gave it; either stays the same whenever the record is read again.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from time import monotonic
from typing import Any

import numpy as np

from headrace.kernel.errors import CallError, Unavailable
from headrace.kernel.ids import new_id
from headrace.log.partition import partition_of
from headrace.log.port import Batch, Headers, check_lengths

try:
    import confluent_kafka as ck
    from confluent_kafka import admin as ck_admin
except ImportError as missing:
    raise Unavailable(
        "a log on Kafka needs the package confluent-kafka",
        where="headrace.toml: log",
        remedy="Install it: pip install 'headrace[kafka]'.",
    ) from missing

from headrace.log.forward import Forwarder

__all__ = ["KafkaLog"]

SECONDS = 30.0  # how long the broker may take to answer
TRANSACTION_MS = 10_000  # how long a killed writer's open transaction may hold readers up
READERS = 4  # consumers kept for each topic, each where its last batch ended
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_ENVIRONMENT = "HEADRACE_KAFKA_"
# The client's picture of who leads a log partition is older or newer than the broker's: ask again.
_STALE = (
    ck.KafkaError.FENCED_LEADER_EPOCH,
    ck.KafkaError.NOT_LEADER_FOR_PARTITION,
    ck.KafkaError.UNKNOWN_LEADER_EPOCH,
)
_logger = logging.getLogger(__name__)

Record = tuple[str, int, bytes, bytes | None, Headers | None]


class KafkaLog:
    """Topics on a Kafka cluster.

    Args:
        brokers: `host:port,...`.
    """

    def __init__(self, brokers: str) -> None:
        self._brokers = brokers
        self._config = {"bootstrap.servers": brokers, "logger": _logger, **_from_environment()}
        self._admin = ck_admin.AdminClient(self._config)
        self._counts: dict[str, int] = {}
        self._readers: dict[str, list[_Reader]] = {}
        self._lock = threading.Lock()
        self._writer: _Writer | None = None
        self._turn = itertools.count()

    def create(self, topic: str, partitions: int = 1) -> None:
        if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
            raise CallError(
                f"{topic!r} is no topic's name", remedy="Use letters, digits, '.', '_' and '-', at most 249."
            )
        if partitions < 1:
            raise CallError(f"topic {topic!r} needs at least one log partition, not {partitions}")
        new = ck_admin.NewTopic(
            topic, partitions, replication_factor=-1, config={"message.timestamp.type": "LogAppendTime"}
        )
        with self._reached():
            made = self._admin.create_topics([new], operation_timeout=SECONDS)[topic]
            try:
                made.result(SECONDS)
            except ck.KafkaException as error:
                if error.args[0].code() != ck.KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
            self._until_known(topic)

    def topics(self) -> list[str]:
        with self._reached():
            names = self._admin.list_topics(timeout=SECONDS).topics
        return sorted(name for name in names if not name.startswith("__"))

    def identity(self, topic: str) -> str:
        with self._reached():
            told = self._admin.describe_topics(ck.TopicCollection([topic]))[topic]
            try:
                return str(told.result(SECONDS).topic_id)
            except ck.KafkaException as error:
                if error.args[0].code() == ck.KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise _no_topic(topic, self._brokers) from error
                raise

    def partitions(self, topic: str) -> int:
        if topic not in self._counts:
            with self._reached():
                found = self._admin.list_topics(timeout=SECONDS).topics.get(topic)
            if found is None or found.error is not None:
                raise _no_topic(topic, self._brokers)
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
        with self._lock:
            if self._writer is None:
                self._writer = _Writer(self._config)
            writer = self._writer
        with self._reached():
            return writer.append(records)

    def read(self, topic: str, offsets: Mapping[int, int], limit: int) -> Batch:
        self.partitions(topic)
        with self._reached(), self._reader(topic, offsets) as reader:
            found = reader.kept(limit) or reader.read(self._ends(topic, offsets), limit)
            return _batch(found, reader.next_offsets())

    def wait(self, topic: str, offsets: Mapping[int, int], timeout: float) -> bool:
        self.partitions(topic)
        with self._reached(), self._reader(topic, offsets) as reader:
            return reader.wait(self._ends(topic, offsets), timeout)

    def start(self, topic: str) -> dict[int, int]:
        return self._bounds(topic, range(self.partitions(topic)), ck_admin.OffsetSpec.earliest())

    def end(self, topic: str) -> dict[int, int]:
        return self._ends(topic, range(self.partitions(topic)))

    def trim(self, topic: str, offsets: Mapping[int, int]) -> None:
        self.partitions(topic)
        parts = [ck.TopicPartition(topic, p, offset) for p, offset in offsets.items()]
        deadline = monotonic() + SECONDS
        with self._reached():
            while True:
                try:
                    for trimmed in self._admin.delete_records(parts, request_timeout=SECONDS).values():
                        trimmed.result(SECONDS)
                    return
                except ck.KafkaException as error:
                    if error.args[0].code() not in _STALE or monotonic() > deadline:
                        raise
                    self._until_known(topic)

    def forwarder(self, name: str, partitions: int) -> Forwarder:
        """What forwards records to other topics in transactions that hold a position as well."""
        return Forwarder(self, self._config, name, partitions)

    def close(self) -> None:
        with self._lock:
            readers = [one for some in self._readers.values() for one in some]
            self._readers.clear()
            writer, self._writer = self._writer, None
        for reader in readers:
            reader.close()
        if writer is not None:
            writer.close()

    def _ends(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        return self._bounds(topic, partitions, ck_admin.OffsetSpec.latest())

    def _bounds(self, topic: str, partitions: Iterable[int], which: ck_admin.OffsetSpec) -> dict[int, int]:
        # Not through the consumer: its connection is held up by the fetch that waits for more. The
        # end counts what is not committed yet: a commit is answered before its readers see it, and
        # whoever reads after an append must not find nothing.
        asked = {ck.TopicPartition(topic, partition): which for partition in partitions}
        with self._reached():
            told = self._admin.list_offsets(asked, request_timeout=SECONDS)
            return {one.partition: future.result(SECONDS).offset for one, future in told.items()}

    def _until_known(self, topic: str) -> None:
        """A new topic is made before every broker tells of it: waits until it is told with its leaders."""
        deadline = monotonic() + SECONDS
        while monotonic() < deadline:
            found = self._admin.list_topics(topic, timeout=SECONDS).topics[topic]
            if found.error is None and all(
                p.leader >= 0 and p.error is None for p in found.partitions.values()
            ):
                return
        raise Unavailable(f"topic {topic!r} has no leader after {SECONDS:g} s", where=self._brokers)

    @contextmanager
    def _reader(self, topic: str, offsets: Mapping[int, int]) -> Iterator[_Reader]:
        """A consumer for this caller alone: one that stands at these offsets, else another, else a new one."""
        with self._lock:
            idle = self._readers.setdefault(topic, [])
            standing = [one for one in idle if one.stands_at(offsets)]
            reader = standing[0] if standing else (idle[0] if len(idle) >= READERS else None)
            if reader is not None:
                idle.remove(reader)
        if reader is None:
            reader = _Reader(self._config, topic)
        try:
            reader.stand(offsets)
            yield reader
        except BaseException:
            reader.close()
            raise
        with self._lock:
            self._readers.setdefault(topic, []).append(reader)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (ck.KafkaException, TimeoutError) as error:
            said = error.args[0].str() if isinstance(error, ck.KafkaException) else "no answer in time"
            raise Unavailable(
                f"Kafka did not do it: {said}",
                where=f"kafka://{self._brokers}",
                remedy="See that the broker runs, is reached from here, and lets this user in.",
            ) from error


def _from_environment() -> dict[str, str]:
    """librdkafka's settings: HEADRACE_KAFKA_SASL_PASSWORD is `sasl.password`."""
    return {
        name.removeprefix(_ENVIRONMENT).lower().replace("_", "."): value
        for name, value in os.environ.items()
        if name.startswith(_ENVIRONMENT)
    }


def _no_topic(topic: str, brokers: str) -> CallError:
    return CallError(f"there is no topic {topic!r}", where=f"kafka://{brokers}")


class _Writer:
    """Appends in transactions: whoever comes first leads, and takes along those who came meanwhile."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._producer = ck.Producer(
            {
                **config,
                "transactional.id": f"headrace-{new_id()}",
                "transaction.timeout.ms": TRANSACTION_MS,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 0,
                "compression.type": "lz4",
                "queue.buffering.max.messages": 2_000_000,
                "partitioner": "murmur2_random",
            }
        )
        self._producer.init_transactions(SECONDS)
        self._waiting: list[tuple[list[Record], Future[list[tuple[int, int]]]]] = []
        self._lock = threading.Lock()
        self._leading = threading.Lock()

    def append(self, records: list[Record]) -> list[tuple[int, int]]:
        mine: Future[list[tuple[int, int]]] = Future()
        with self._lock:
            self._waiting.append((records, mine))
        with self._leading:  # whoever led before may have taken mine along
            if not mine.done():
                with self._lock:
                    group, self._waiting = self._waiting, []
                self._commit(group)
        return mine.result()

    def _commit(self, group: list[tuple[list[Record], Future[list[tuple[int, int]]]]]) -> None:
        try:
            positions = iter(self._transaction([record for records, _ in group for record in records]))
            for records, future in group:
                future.set_result(list(itertools.islice(positions, len(records))))
        except Exception as error:
            for _, future in group:
                if not future.done():
                    future.set_exception(error)

    def _transaction(self, records: list[Record]) -> list[tuple[int, int]]:
        positions: list[tuple[int, int]] = [(-1, -1)] * len(records)

        def delivered(n: int) -> Any:
            def told(error: ck.KafkaError | None, message: ck.Message) -> None:
                if error is None:
                    positions[n] = (message.partition(), message.offset())

            return told

        producer = self._producer
        producer.begin_transaction()
        try:
            for n, (topic, partition, value, key, headers) in enumerate(records):
                given = None if headers is None else list(headers.items())
                while True:
                    try:
                        producer.produce(topic, value, key, partition, on_delivery=delivered(n), headers=given)
                        break
                    except BufferError:  # the queue is full: let some of it go out
                        producer.poll(0.1)
            producer.commit_transaction(SECONDS)
        except ck.KafkaException:
            producer.abort_transaction(SECONDS)
            raise
        return positions

    def close(self) -> None:
        self._producer.flush(SECONDS)


class _Reader:
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
        """Up to `limit` of the records that `wait` received."""
        found, self._kept = self._kept[:limit], self._kept[limit:]
        self._passed(found)
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


def _batch(messages: list[ck.Message], next_offsets: dict[int, int]) -> Batch:
    return Batch(
        np.array([one.partition() for one in messages], np.int32),
        np.array([one.offset() for one in messages], np.int64),
        np.array([one.timestamp()[1] for one in messages], np.int64) * 1_000,
        [one.value() or b"" for one in messages],
        [one.key() for one in messages],
        [dict(given) if (given := one.headers()) else None for one in messages],
        next_offsets,
    )
