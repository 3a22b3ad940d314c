"""Forwarding on Kafka: records to other topics and the position that they stand for, in one transaction.

The positions are records on a compacted topic beside, in a log partition for each one that is forwarded,
and so is the transactional id: who takes a log partition over fences whoever had it before, who can then
commit nothing more, and only after that reads the position. So every record is forwarded exactly once, to
those who read committed records, whatever dies or hangs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

import confluent_kafka as ck

from headrace.kernel.errors import Conflict, TooLarge, Unavailable
from headrace.kernel.faults import reach
from headrace.log.kafka.cluster import SECONDS
from headrace.log.kafka.limits import Limits, is_too_large
from headrace.log.kafka.reader import COMMITTED
from headrace.log.kafka.writer import Record, Told, produce

__all__ = ["Forwarder"]

TRANSACTION_MS = 60_000
_FENCED = (
    ck.KafkaError._FENCED,
    ck.KafkaError.PRODUCER_FENCED,
    ck.KafkaError.INVALID_PRODUCER_EPOCH,
    ck.KafkaError.INVALID_PRODUCER_ID_MAPPING,
)


class Forwarder:
    """Forwards what comes from the log partitions of one topic. One thread at a time.

    Args:
        config: the clients' settings.
        name: of the forwarding, and of the topic of its positions; of two with the same name the later
            fences the earlier.
        partitions: how many log partitions are forwarded.
        have: sees to it that the topic of the positions has so many log partitions.
        limits: how large records may be.
        topics: where to they are forwarded.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        name: str,
        partitions: int,
        have: Callable[[int], None],
        limits: Limits,
        topics: Sequence[str],
    ) -> None:
        self._config = config
        self._have = have
        self._limits = limits
        self._topics = topics
        self._name = name
        self._partitions = range(partitions)
        self._producers: dict[int, ck.Producer] = {}
        self._positions: dict[int, bytes] = {}
        self._next: defaultdict[int, int] = defaultdict(int)
        have(partitions)
        self._consumer = self._made_consumer()

    def positions(self) -> dict[int, bytes]:
        """Log partition → the position that was committed last, as far as that is known: of those that
        another forwards at this moment it may be one of before."""
        self._read([partition for partition in self._partitions if partition not in self._producers])
        return dict(self._positions)

    def take(self, partition: int) -> bytes | None:
        """Makes sure that nobody else forwards this log partition; its position, None: nothing yet.

        Raises:
            Unavailable: the broker is away.
        """
        if partition not in self._partitions:  # the topic has got more of them meanwhile
            self._partitions = range(partition + 1)
            self._have(partition + 1)
        if partition not in self._producers:
            with _reached():
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
            with _reached():
                producer.init_transactions(SECONDS)  # ends what one before may have left open
            self._read([partition])
            self._producers[partition] = producer
        return self._positions.get(partition)

    def commit(self, partition: int, records: Iterable[Record], position: bytes) -> None:
        """Appends the records and stores the position of a log partition that was taken, or neither.

        Raises:
            Conflict: another has taken the log partition since.
            TooLarge: a topic does not take the records that it names, if the broker told which these are.
                The limits are asked anew; what is committed is undone: `take` it again.
            Unavailable: the broker is away; what became of the transaction is told by `take`.
        """
        producer = self._producers[partition]
        refused: list[int] = []
        try:
            with _reached():
                producer.begin_transaction()
                try:
                    for place, record in enumerate(records):
                        produce(producer, record, _note_refusal(refused, place))
                    produce(producer, (self._name, partition, position, b"position", None))
                except ck.KafkaException as error:
                    if error.args[0].code() == ck.KafkaError._FATAL:
                        producer.commit_transaction(SECONDS)  # raises what made it fatal, which `error` hides
                    raise
                reach("forward.before_commit")
                producer.commit_transaction(SECONDS)
        except BaseException as error:
            self._give_up(partition)
            if refused:
                with _reached():
                    alone = self._limits.of_all(self._topics).batch == 1
                    self._limits.note_refusal(self._topics)
                raise TooLarge(
                    "records are too large for the topics they are forwarded to",
                    where="forward= of the contract",
                    places=sorted(refused) if alone else (),
                ) from error
            raise
        reach("forward.after_commit")
        self._positions[partition] = position

    def close(self) -> None:
        """Ends it; what is not committed is undone."""
        for partition in list(self._producers):
            self._give_up(partition)
        self._consumer.close()

    def _give_up(self, partition: int) -> None:
        """Lets go of a log partition. `take` begins anew with it, and undoes what this one left open."""
        self._producers.pop(partition).purge()

    def _read(self, partitions: Sequence[int]) -> None:
        """Reads the positions of some log partitions, up to what is committed now."""
        with _reached():
            try:
                self._read_to_end(partitions)
            except BaseException:
                self._consumer.close()
                self._consumer = self._made_consumer()
                raise

    def _read_to_end(self, partitions: Sequence[int]) -> None:
        waiting = set(partitions)
        deadline = monotonic() + SECONDS
        # Assigned anew each time: the end is told once an assignment.
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
                raise Unavailable(f"Kafka did not tell the positions in {SECONDS:g} s", where=self._name)
        self._consumer.unassign()

    def _made_consumer(self) -> ck.Consumer:
        return ck.Consumer({**self._config, **COMMITTED, "fetch.wait.max.ms": 20})


def _note_refusal(refused: list[int], place: int) -> Told:
    def told(error: ck.KafkaError | None, _: ck.Message) -> None:
        if error is not None and is_too_large(error):
            refused.append(place)

    return told


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except ck.KafkaException as error:
        told = error.args[0]
        if told.code() in _FENCED:
            raise Conflict("another process forwards this log partition now") from error
        raise Unavailable(
            f"Kafka did not forward: {told.str()}",
            where="forward= of the contract",
            remedy="See that the broker runs, is reached from here, and lets this user write to these topics.",
        ) from error
