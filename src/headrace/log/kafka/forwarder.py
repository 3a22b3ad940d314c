"""Forwarding on Kafka: appends records to other topics and stores the position in one transaction.

Positions are records on a compacted topic, with one log partition for each forwarded log partition. Each
forwarded log partition has a transactional id: a process that takes it over first fences its predecessor, so
that this can commit nothing more, and then reads the position. So readers of committed records get every record
exactly once, whichever process dies or hangs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from time import monotonic
from typing import Any

import confluent_kafka as ck

from headrace.kernel.errors import Conflict, Refused, TooLarge, Unavailable
from headrace.kernel.faults import reach
from headrace.log.kafka.connection import SECONDS
from headrace.log.kafka.limits import TopicLimits
from headrace.log.kafka.reader import READ_COMMITTED
from headrace.log.kafka.writer import DeliveryErrors, KafkaRecord, commit, produce_all

__all__ = ["KafkaForwarder"]

TRANSACTION_MS = 60_000
_WHERE = "forward= of the contract"
_FENCED = (
    ck.KafkaError._FENCED,
    ck.KafkaError.PRODUCER_FENCED,
    ck.KafkaError.INVALID_PRODUCER_EPOCH,
    ck.KafkaError.INVALID_PRODUCER_ID_MAPPING,
)


class KafkaForwarder:
    """Forwards the records of one topic's log partitions. One thread at a time may use it.

    Args:
        config: settings of every client.
        name: the name of the forwarder and of the topic of its positions. Of two forwarders with the same name
            the later fences the earlier.
        partitions: the number of log partitions to forward.
        create_positions: creates the topic of positions, or adds log partitions to it.
        limits: the size limits of the topics.
        topics: the topics to forward to.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        name: str,
        partitions: int,
        create_positions: Callable[[str, int], None],
        limits: TopicLimits,
        topics: Sequence[str],
    ) -> None:
        self._config = config
        self._create_positions = create_positions
        self._limits = limits
        self._topics = topics
        self._name = name
        self._partitions = range(partitions)
        self._producers: dict[int, ck.Producer] = {}
        self._positions: dict[int, bytes] = {}
        self._next: defaultdict[int, int] = defaultdict(int)
        create_positions(name, partitions)
        self._consumer = self._open_consumer()

    def positions(self) -> dict[int, bytes]:
        """Log partition → its last committed position.

        The position may be out of date if another process forwards the log partition at this moment.
        """
        self._read([partition for partition in self._partitions if partition not in self._producers])
        return dict(self._positions)

    def take_over(self, partition: int) -> bytes | None:
        """Fences any other process that forwards this log partition; returns its position, None: nothing yet.

        Raises:
            Unavailable: the broker cannot be reached.
        """
        if partition not in self._partitions:  # the topic has grown
            self._partitions = range(partition + 1)
            self._create_positions(self._name, partition + 1)
        if partition not in self._producers:
            with _name_errors():
                limit = self._limits.of_all([*self._topics, self._name])
            producer = ck.Producer(
                {
                    **self._config,
                    **limit.config,
                    "transactional.id": f"{self._name}-{partition}",
                    "transaction.timeout.ms": TRANSACTION_MS,
                    "compression.type": "lz4",
                    "queue.buffering.max.messages": 1_000_000,
                }
            )
            with _name_errors():
                producer.init_transactions(SECONDS)  # aborts a transaction that a predecessor left open
            self._read([partition])
            self._producers[partition] = producer
        return self._positions.get(partition)

    def commit(self, partition: int, records: Iterable[KafkaRecord], position: bytes) -> None:
        """Appends the records and stores the position of a log partition, in one transaction.

        Call `take_over` first, and again after each error.

        Raises:
            Conflict: another process has taken the log partition over since.
            TooLarge: a topic does not accept the records at these places (none if the broker did not say
                which). Nothing is committed, and the limits are read again before the next transaction.
            Refused: the broker refuses a record as invalid; the same records will always be refused.
            Unavailable: the broker cannot be reached. The position that `take_over` returns shows whether the
                transaction was committed.
        """
        producer, errors = self._producers[partition], DeliveryErrors()
        try:
            with _name_errors():
                producer.begin_transaction()
                position_record = (self._name, partition, position, b"position", None)
                produce_all(producer, chain(records, [position_record]), errors)
                reach("forward.before_commit")
                commit(producer, errors)
        except BaseException as error:
            self._release(partition)
            if errors.invalid:
                self._end_transaction(partition)
                raise Refused(
                    f"the broker refuses records for {' or '.join(self._topics)} as invalid",
                    where=_WHERE,
                    remedy="A compacted topic needs a key on each event: set its cleanup.policy to delete.",
                ) from error
            if errors.too_large:
                with _name_errors():
                    is_each_alone = self._limits.of_all(self._topics).batch == 1
                    self._limits.note_refusal(self._topics)
                self._end_transaction(partition)
                raise TooLarge(
                    "records are too large for the topics they are forwarded to",
                    where=_WHERE,
                    places=sorted(errors.too_large) if is_each_alone else (),
                ) from error
            raise
        reach("forward.after_commit")
        self._positions[partition] = position

    def close(self) -> None:
        """Closes the clients."""
        for partition in list(self._producers):
            self._release(partition)
        self._consumer.close()

    def _release(self, partition: int) -> None:
        """Discards the producer of a log partition; the next `take_over` aborts its open transaction."""
        self._producers.pop(partition).purge()

    def _end_transaction(self, partition: int) -> None:
        """Lets the broker abort what a discarded producer left open: the topics' readers would wait for it."""
        with suppress(Conflict, Unavailable):
            self.take_over(partition)

    def _read(self, partitions: Sequence[int]) -> None:
        """Reads the committed positions of log partitions."""
        with _name_errors():
            try:
                self._read_to_end(partitions)
            except BaseException:
                self._consumer.close()
                self._consumer = self._open_consumer()
                raise

    def _read_to_end(self, partitions: Sequence[int]) -> None:
        waiting = set(partitions)
        deadline = monotonic() + SECONDS
        # Assigned each time, because the end is reported once per assignment.
        self._consumer.assign([ck.TopicPartition(self._name, p, self._next[p]) for p in partitions])
        while waiting:
            for message in self._consumer.consume(10_000, 0.1):
                error = message.error()
                if error is None:
                    self._positions[message.partition()] = message.value()
                    self._next[message.partition()] = message.offset() + 1
                elif error.code() == ck.KafkaError._PARTITION_EOF:
                    waiting.discard(message.partition())
                else:
                    raise ck.KafkaException(error)
            if waiting and monotonic() > deadline:
                raise Unavailable(f"Kafka did not return the positions within {SECONDS:g} s", where=self._name)
        self._consumer.unassign()

    def _open_consumer(self) -> ck.Consumer:
        return ck.Consumer({**self._config, **READ_COMMITTED, "fetch.wait.max.ms": 20})


@contextmanager
def _name_errors() -> Iterator[None]:
    """Turns the client's errors in the block into Conflict or Unavailable, with a remedy."""
    try:
        yield
    except ck.KafkaException as error:
        cause = error.args[0]
        if cause.code() in _FENCED:
            raise Conflict("another process forwards this log partition now") from error
        raise Unavailable(
            f"Kafka did not forward: {cause.str()}",
            where=_WHERE,
            remedy="Check that the broker runs, can be reached, and lets this user write to these topics.",
        ) from error
