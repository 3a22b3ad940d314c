"""Writing to Kafka: a record to a producer, and transactions that threads share."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import confluent_kafka as ck

from headrace.kernel.ids import new_id
from headrace.log.kafka.cluster import SECONDS
from headrace.log.kafka.limits import Limit, RecordsRefused, is_too_large
from headrace.log.port import Headers

__all__ = ["Record", "Writer", "produce"]

TRANSACTION_MS = 25_000  # how long a killed writer's open transaction may hold readers up

Record = tuple[str, int, bytes, bytes | None, Headers | None]
"""Topic, log partition, value, key, headers."""
Told = Callable[[ck.KafkaError | None, ck.Message], None]


def produce(producer: ck.Producer, record: Record, told: Told | None = None) -> None:
    """Gives the record to the producer, once its queue has room, also for a log partition that the topic
    has got since the producer looked.

    Args:
        producer: where to.
        record: what.
        told: is called with what became of it, by the producer's `poll` and `flush`.

    Raises:
        KafkaException: the producer does not take it.
    """
    topic, partition, value, key, headers = record
    named: dict[str, Any] = {} if told is None else {"on_delivery": told}
    given = None if headers is None else list(headers.items())
    met = False
    while True:
        try:
            producer.produce(topic, value, key, partition, headers=given, **named)
            return
        except BufferError:  # the queue is full: let some of it go out
            producer.poll(0.1)
        except ck.KafkaException as error:
            if met or error.args[0].code() != ck.KafkaError._UNKNOWN_PARTITION:
                raise
            met = True
            producer.list_topics(topic, SECONDS)  # the producer learns of them


class Writer:
    """Appends in transactions: whoever comes first leads, and takes along those who came meanwhile.

    Args:
        config: the clients' settings.
        limit: of the topics that it writes to.

    Attributes:
        broken: a transaction could not be committed, or what was begun not be aborted; nothing more goes
            through it.
    """

    def __init__(self, config: Mapping[str, Any], limit: Limit) -> None:
        self._producer = ck.Producer(
            {
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
        )
        self._producer.init_transactions(SECONDS)
        self.broken = False
        self._waiting: list[tuple[list[Record], Future[list[tuple[int, int]]]]] = []
        self._lock = threading.Lock()
        self._leading = threading.Lock()

    def append(self, records: list[Record]) -> list[tuple[int, int]]:
        """Appends the records in one transaction; their (log partition, offset).

        Raises:
            RecordsRefused: the broker refused records of the transaction, maybe none of these.
        """
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
        except RecordsRefused as refused:
            start = 0
            for records, future in group:
                places = [place - start for place in refused.places if 0 <= place - start < len(records)]
                future.set_exception(RecordsRefused(places))
                start += len(records)
        except Exception as error:
            for _, future in group:
                if not future.done():
                    future.set_exception(error)

    def _transaction(self, records: list[Record]) -> list[tuple[int, int]]:
        positions: list[tuple[int, int]] = [(-1, -1)] * len(records)
        refused: list[int] = []

        def delivered(n: int) -> Told:
            def told(error: ck.KafkaError | None, message: ck.Message) -> None:
                if error is None:
                    positions[n] = (message.partition(), message.offset())
                elif is_too_large(error):
                    refused.append(n)

            return told

        producer = self._producer
        producer.begin_transaction()
        try:
            for n, record in enumerate(records):
                produce(producer, record, delivered(n))
        except ck.KafkaException:
            self._abort()
            raise
        try:
            producer.commit_transaction(SECONDS)
        except ck.KafkaException:
            self.broken = True  # it may have lost the brokers for good (headrace.log.kafka.cluster)
            self._abort()
            if refused:
                raise RecordsRefused(refused) from None
            raise
        return positions

    def _abort(self) -> None:
        try:
            self._producer.abort_transaction(SECONDS)
        except ck.KafkaException:
            self.broken = True  # the broker ends it

    def close(self) -> None:
        """Ends it."""
        self._producer.flush(SECONDS)
