"""Sharing a topic on Kafka: a member of a consumer group (see headrace.log.port.Member).

The group says who has which log partition, and nothing else: they are paused the moment they are
assigned, so that nothing is fetched through it, and no offset is ever committed to it. Members are
static (group.instance.id), so that one that was killed and is started again takes up its share
without the group's waiting for its session to end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

import confluent_kafka as ck

from headrace.kernel.errors import Unavailable
from headrace.log.slot import Slot

__all__ = ["KafkaMember"]

SESSION_MS = 10_000  # how long a member may be silent before its share goes to the others
LONGEST_MS = 300_000  # how long it may not ask for its share
REFRESH_MS = 10_000  # how long new log partitions of the topic may stay unnoticed
LEAVE_SECONDS = 5.0  # how long the goodbye may take
NAMESAKE_SECONDS = 60.0  # who loses its name sooner than this after joining has a namesake
IDLE_SECONDS = 10.0  # how long it may have no share before it looks whether it still reaches the group
_logger = logging.getLogger(__name__)


class KafkaMember:
    """One member. One thread at a time may use it."""

    def __init__(
        self, config: Mapping[str, Any], topic: str, group: str, slot: Slot, settle: Callable[[], None]
    ) -> None:
        self._config = {
            **config,
            "group.id": group,
            "session.timeout.ms": SESSION_MS,
            "heartbeat.interval.ms": min(1_000, SESSION_MS // 4),
            "max.poll.interval.ms": max(SESSION_MS, LONGEST_MS),
            # Each division names every log partition. The cooperative one leaves out what moves until the
            # member that gave it up asks again; a fixed name that dies in between leaves it to nobody.
            "partition.assignment.strategy": "range",
            "topic.metadata.refresh.interval.ms": REFRESH_MS,
            "enable.auto.commit": False,
            "allow.auto.create.topics": False,
        }
        self._topic = topic
        self._slot = slot
        self._settle = settle
        self._share: set[int] = set()
        self._served = monotonic()  # when it last had a share, or looked
        self._name = {"group.instance.id": slot.name}
        self._consumer = self._subscribed()

    def partitions(self) -> frozenset[int]:
        fatal = None
        try:
            while (message := self._consumer.poll(0)) is not None:
                error = message.error()
                if error is not None and error.code() == ck.KafkaError._FATAL:
                    fatal = error.str()
        except ck.KafkaException as error:
            raise Unavailable(
                f"the share of topic {self._topic!r} is not told: {error.args[0].str()}",
                where=f"kafka://{self._config['bootstrap.servers']}",
            ) from error
        if fatal is not None:
            # Another took its name. That may have been itself, twice, while a broker came back; or it
            # is another machine of the same name and folder: then it goes on without a name that outlives it.
            if monotonic() - self._joined < NAMESAKE_SECONDS:
                self._name = {}
            self._join_again(fatal)
        elif self._share:
            self._served = monotonic()
        elif monotonic() > self._served + IDLE_SECONDS:
            self._served = monotonic()
            self._look()
        return frozenset(self._share)

    def close(self) -> None:
        deadline = monotonic() + LEAVE_SECONDS
        with suppress(ck.KafkaException):  # another took its name: it has left already
            # A static member says goodbye when it unsubscribes, not when it is closed.
            self._consumer.unsubscribe()
            while (self._share or self._consumer.memberid()) and monotonic() < deadline:
                self._consumer.poll(0.02)
        self._consumer.close()
        self._slot.close()

    def _look(self) -> None:
        """Joins again where no broker answers: the client may never find one (headrace.log.kafka.cluster)."""
        try:
            self._consumer.list_topics(self._topic, timeout=1.0)
        except ck.KafkaException as error:
            self._join_again(error.args[0].str())

    def _join_again(self, why: str) -> None:
        _logger.warning("a member of %s joins again: %s", self._config["group.id"], why)
        self._consumer.close()
        self._share.clear()
        self._consumer = self._subscribed()

    def _subscribed(self) -> ck.Consumer:
        self._joined = monotonic()
        consumer = ck.Consumer({**self._config, **self._name})
        consumer.subscribe([self._topic], on_assign=self._given, on_revoke=self._taken, on_lost=self._lost)
        return consumer

    def _given(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        ends = [ck.TopicPartition(one.topic, one.partition, ck.OFFSET_END) for one in partitions]
        consumer.assign(ends)
        consumer.pause(ends)
        self._share = {one.partition for one in partitions}

    def _taken(self, _: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        self._settle()
        self._lost(_, partitions)

    def _lost(self, _: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        self._share -= {one.partition for one in partitions}
