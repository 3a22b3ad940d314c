"""Shares a topic on Kafka, as a member of a consumer group (see headrace.log.port.Member).

The group only divides the log partitions. They are paused as soon as they are assigned, so the group's consumer
fetches nothing, and no offset is ever committed to the group. Members are static (group.instance.id): a member
that was killed and is started again gets its share back before its old session ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

import confluent_kafka as ck

from headrace.kernel.errors import Unavailable
from headrace.log.slot import MemberSlot

__all__ = ["KafkaMember"]

SESSION_MS = 10_000  # how long a member may be silent before its share goes to the others
LONGEST_MS = 300_000  # the longest time between two calls of `partitions`
REFRESH_MS = 10_000  # how long it may take to notice new log partitions of the topic
LEAVE_SECONDS = 5.0  # how long leaving the group may take
NAMESAKE_SECONDS = 60.0  # if a member loses its name sooner than this, another member has the same name
IDLE_SECONDS = 10.0  # without a share for this long, it checks whether it still reaches the brokers
_logger = logging.getLogger(__name__)


class KafkaMember:
    """One member. One thread at a time may use it."""

    def __init__(
        self, config: Mapping[str, Any], topic: str, group: str, slot: MemberSlot, settle: Callable[[], None]
    ) -> None:
        self._config = {
            **config,
            "group.id": group,
            "session.timeout.ms": SESSION_MS,
            "heartbeat.interval.ms": min(1_000, SESSION_MS // 4),
            "max.poll.interval.ms": max(SESSION_MS, LONGEST_MS),
            # Each division assigns every log partition. The cooperative strategy leaves a moving partition
            # unassigned until the member that released it joins again; if a static member dies in between, no
            # member gets the partition.
            "partition.assignment.strategy": "range",
            "topic.metadata.refresh.interval.ms": REFRESH_MS,
            "enable.auto.commit": False,
            "allow.auto.create.topics": False,
        }
        self._topic = topic
        self._slot = slot
        self._settle = settle
        self._share: set[int] = set()
        self._checked = monotonic()  # when it last had a share, or checked the brokers
        self._name = {"group.instance.id": slot.name}
        self._consumer = self._subscribe()

    def partitions(self) -> frozenset[int]:
        fatal = None
        try:
            while (message := self._consumer.poll(0)) is not None:
                error = message.error()
                if error is not None and error.code() == ck.KafkaError._FATAL:
                    fatal = error.str()
        except ck.KafkaException as error:
            raise Unavailable(
                f"the share of topic {self._topic!r} cannot be read: {error.args[0].str()}",
                where=f"kafka://{self._config['bootstrap.servers']}",
            ) from error
        if fatal is not None:
            # Another member took its name. It was either this member itself, which joined twice while a broker
            # restarted, or a machine with the same name and folder; then this member drops its static name.
            if monotonic() - self._joined < NAMESAKE_SECONDS:
                self._name = {}
            self._join_again(fatal)
        elif self._share:
            self._checked = monotonic()
        elif monotonic() > self._checked + IDLE_SECONDS:
            self._checked = monotonic()
            self._check_brokers()
        return frozenset(self._share)

    def close(self) -> None:
        deadline = monotonic() + LEAVE_SECONDS
        with suppress(ck.KafkaException):  # another member took its name, so it has left already
            # A static member leaves when it unsubscribes, not when it is closed.
            self._consumer.unsubscribe()
            while (self._share or self._consumer.memberid()) and monotonic() < deadline:
                self._consumer.poll(0.02)
        self._consumer.close()
        self._slot.close()

    def _check_brokers(self) -> None:
        """Joins again if no broker answers: the client may never find one (headrace.log.kafka.connection)."""
        try:
            self._consumer.list_topics(self._topic, timeout=1.0)
        except ck.KafkaException as error:
            self._join_again(error.args[0].str())

    def _join_again(self, why: str) -> None:
        _logger.warning("a member of %s joins again: %s", self._config["group.id"], why)
        self._consumer.close()
        self._share.clear()
        self._consumer = self._subscribe()

    def _subscribe(self) -> ck.Consumer:
        self._joined = monotonic()
        consumer = ck.Consumer({**self._config, **self._name})
        consumer.subscribe([self._topic], on_assign=self._assign, on_revoke=self._release, on_lost=self._drop)
        return consumer

    def _assign(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        ends = [ck.TopicPartition(p.topic, p.partition, ck.OFFSET_END) for p in partitions]
        consumer.assign(ends)
        consumer.pause(ends)
        self._share = {p.partition for p in partitions}

    def _release(self, consumer: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        self._settle()
        self._drop(consumer, partitions)

    def _drop(self, _: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        self._share -= {p.partition for p in partitions}
