"""Writes to Kafka in transactions. Threads that append at the same time share one, and so one wait for the
broker."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from time import monotonic
from typing import Any

import confluent_kafka as ck

from headrace.kernel.ids import new_id
from headrace.log.kafka.connection import SECONDS
from headrace.log.kafka.limits import BatchRefused, TopicLimit, is_too_large
from headrace.log.port import Headers

__all__ = ["DeliveryErrors", "KafkaRecord", "KafkaWriter", "KafkaWriters", "commit", "produce_all"]

TRANSACTION_MS = 25_000  # how long the open transaction of a killed writer may delay readers
_FLUSH_SECONDS = 0.1  # how long a commit waits for records before it looks for refused ones

KafkaRecord = tuple[str, int, bytes, bytes | None, Headers | None]
"""Topic, log partition, value, key, headers."""
DeliveryCallback = Callable[[ck.KafkaError | None, ck.Message], None]


class DeliveryErrors:
    """The records of one transaction that were not delivered.

    Attributes:
        any: whether there is one.
        too_large: places of the records in batches that the broker refused for their size.
        invalid: places of the records in batches that the broker refused as invalid.
    """

    def __init__(self) -> None:
        self.any = False
        self.too_large: list[int] = []
        self.invalid: list[int] = []

    def note(self, place: int, error: ck.KafkaError) -> None:
        """Notes why the record at this place was not delivered."""
        self.any = True
        if is_too_large(error):
            self.too_large.append(place)
        elif error.code() == ck.KafkaError.INVALID_RECORD:
            self.invalid.append(place)


def _produce(producer: ck.Producer, record: KafkaRecord, on_delivery: DeliveryCallback) -> None:
    """Gives the record to the producer once its queue has room.

    If the producer does not know the log partition, because the topic has grown, it reads the topic's metadata
    again first.

    Args:
        producer: the producer.
        record: the record.
        on_delivery: called with the outcome, by the producer's `poll` and `flush`.

    Raises:
        KafkaException: the producer does not accept it.
    """
    topic, partition, value, key, headers = record
    header_list = None if headers is None else list(headers.items())
    is_refreshed = False
    while True:
        try:
            producer.produce(topic, value, key, partition, headers=header_list, on_delivery=on_delivery)
            return
        except BufferError:  # the queue is full: wait until some of it is sent
            producer.poll(0.1)
        except ck.KafkaException as error:
            if is_refreshed or error.args[0].code() != ck.KafkaError._UNKNOWN_PARTITION:
                raise
            is_refreshed = True
            producer.list_topics(topic, SECONDS)  # updates the producer's view of the topic


def produce_all(
    producer: ck.Producer,
    records: Iterable[KafkaRecord],
    errors: DeliveryErrors,
    positions: list[tuple[int, int]] | None = None,
) -> None:
    """Gives the records of a transaction to the producer.

    Args:
        producer: the producer, in a transaction.
        records: the records.
        errors: gets the records that are not delivered, by their places among these.
        positions: gets each delivered record's (log partition, offset), at its place.

    Raises:
        KafkaException: the producer does not accept a record. This may be because the broker has refused an
            earlier one, which is then in `errors`.
    """

    def note_delivery(place: int) -> DeliveryCallback:
        def note(error: ck.KafkaError | None, message: ck.Message) -> None:
            if error is not None:
                errors.note(place, error)
            elif positions is not None:
                positions[place] = (message.partition(), message.offset())

        return note

    try:
        for place, record in enumerate(records):
            _produce(producer, record, note_delivery(place))
    except ck.KafkaException as error:
        if error.args[0].code() == ck.KafkaError._FATAL:
            producer.commit_transaction(SECONDS)  # raises the fatal error's cause
        producer.flush(_FLUSH_SECONDS)  # calls the callbacks
        raise


def commit(producer: ck.Producer, errors: DeliveryErrors) -> None:
    """Commits the producer's transaction.

    Once the broker has refused a record, the client sends none of those that are left. A commit that has begun
    would wait for them until its time is over; one that begins afterwards fails at once. So this waits for the
    records first, until one is refused.

    Args:
        producer: the producer.
        errors: what the callbacks of the transaction's records note to.

    Raises:
        KafkaException: the transaction is not committed, or this is unknown. On the broker it may be open, and
            readers wait for its end: discard the producer, and call `init_transactions` on another one with its
            transactional id.
    """
    deadline = monotonic() + SECONDS
    while (waiting := producer.flush(_FLUSH_SECONDS)) and not errors.any and monotonic() < deadline:
        pass
    producer.commit_transaction(_FLUSH_SECONDS if waiting else SECONDS)


_Waiting = tuple[list[KafkaRecord], "Future[list[tuple[int, int]]]"]


class KafkaWriter:
    """Appends in transactions: the first of several threads commits for all that wait.

    Args:
        config: settings of every client.
        limit: the size limit of the topics that it writes to.

    Attributes:
        is_broken: the broker may have an open transaction of it; the writer must not be used again.
    """

    def __init__(self, config: Mapping[str, Any], limit: TopicLimit) -> None:
        self._config = {
            **config,
            **limit.config,
            "transactional.id": f"headrace-{new_id()}",
            "transaction.timeout.ms": TRANSACTION_MS,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 0,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 2_000_000,
            "partitioner": "murmur2_random",
        }
        self._producer = self._open_producer()
        self.is_broken = False
        self._waiting: list[_Waiting] = []
        self._queue = threading.Lock()
        self._lock = threading.Lock()

    def append(self, records: list[KafkaRecord]) -> list[tuple[int, int]]:
        """Appends the records in one transaction; returns their (log partition, offset).

        Raises:
            BatchRefused: the broker refused records of the transaction, perhaps none of these.
            KafkaException: the client failed.
        """
        positions: Future[list[tuple[int, int]]] = Future()
        with self._queue:
            self._waiting.append((records, positions))
        with self._lock:  # the first thread here writes for all that wait
            if not positions.done():
                with self._queue:
                    group, self._waiting = self._waiting, []
                self._commit(group)
        return positions.result()

    def close(self) -> None:
        """Closes the producer."""
        self._producer.flush(SECONDS)

    def _commit(self, group: list[_Waiting]) -> None:
        try:
            positions = iter(self._write([record for records, _ in group for record in records]))
            for records, future in group:
                future.set_result(list(itertools.islice(positions, len(records))))
        except BatchRefused as refusal:
            start = 0
            for records, future in group:
                places = range(start, start + len(records))
                future.set_exception(
                    BatchRefused(
                        [place - start for place in refusal.too_large if place in places],
                        [place - start for place in refusal.invalid if place in places],
                    )
                )
                start += len(records)
        except Exception as error:
            for _, future in group:
                if not future.done():
                    future.set_exception(error)

    def _write(self, records: list[KafkaRecord]) -> list[tuple[int, int]]:
        positions: list[tuple[int, int]] = [(-1, -1)] * len(records)
        errors = DeliveryErrors()
        producer = self._producer
        producer.begin_transaction()
        try:
            produce_all(producer, records, errors, positions)
            commit(producer, errors)
        except ck.KafkaException:
            self._end_transaction()
            if errors.too_large or errors.invalid:
                raise BatchRefused(errors.too_large, errors.invalid) from None
            raise
        return positions

    def _open_producer(self) -> ck.Producer:
        """A producer of this writer's transactional id. The broker first aborts what another one left open."""
        producer = ck.Producer(self._config)
        producer.init_transactions(SECONDS)
        return producer

    def _end_transaction(self) -> None:
        """Ends the failed transaction on the broker, since readers wait for it, and replaces the producer.

        The old one may never find a broker again (headrace.log.kafka.connection), and its own abort may leave
        the transaction open.
        """
        self._producer.purge()
        try:
            self._producer = self._open_producer()
        except ck.KafkaException:
            self.is_broken = True  # the broker aborts the transaction when its time is over


class KafkaWriters:
    """The writers of one log, one for each limit. Any thread may use it."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._writers: dict[TopicLimit, KafkaWriter] = {}
        self._lock = threading.Lock()

    def get(self, limit: TopicLimit) -> KafkaWriter:
        """The writer to topics of this limit; a new one if the last one is broken."""
        with self._lock:
            writer = self._writers.get(limit)
            if writer is None or writer.is_broken:
                writer = self._writers[limit] = KafkaWriter(self._config, limit)
            return writer

    def close(self) -> None:
        """Closes all writers."""
        with self._lock:
            writers = list(self._writers.values())
            self._writers.clear()
        for writer in writers:
            writer.close()
