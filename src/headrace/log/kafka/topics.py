"""The topics of a Kafka cluster: creates, describes and trims them.

A new topic or log partition exists before every broker reports it, and a log partition may have no leader for a
moment. So requests are repeated until the brokers agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from time import monotonic, sleep
from typing import TypeVar

import confluent_kafka as ck
from confluent_kafka import admin as ck_admin

from headrace.kernel.errors import CallError, Refused, Unavailable
from headrace.kernel.secrets import clean_text
from headrace.log.kafka.connection import SECONDS, KafkaConnection
from headrace.log.port import check_partitions, missing_topic

__all__ = ["KafkaTopics"]

_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
# A log partition has no leader at the moment, or the client's view of the leaders is older or newer than the
# broker's, because a broker has left or joined. The request must be repeated.
_STALE = (
    ck.KafkaError.FENCED_LEADER_EPOCH,
    ck.KafkaError.LEADER_NOT_AVAILABLE,
    ck.KafkaError.NOT_LEADER_FOR_PARTITION,
    ck.KafkaError.UNKNOWN_LEADER_EPOCH,
    ck.KafkaError._NOENT,
)
_MISSING = (
    ck.KafkaError.UNKNOWN_TOPIC_OR_PART,
    ck.KafkaError.TOPIC_EXCEPTION,  # no topic can have this name
    ck.KafkaError.TOPIC_AUTHORIZATION_FAILED,
)
_RETENTION = "retention.ms"
_SIZES = ("max.message.bytes", "segment.bytes")  # each is a limit of a batch
_CLEANUP = "cleanup.policy"
# The cluster will never create such a topic: its name is another's but for `.` and `_`, or a policy forbids it.
_REFUSED = (ck.KafkaError.TOPIC_EXCEPTION, ck.KafkaError.INVALID_CONFIG, ck.KafkaError.POLICY_VIOLATION)
_NOT_ALLOWED = (ck.KafkaError.TOPIC_AUTHORIZATION_FAILED, ck.KafkaError.CLUSTER_AUTHORIZATION_FAILED)

T = TypeVar("T")


class KafkaTopics:
    """The topics of a cluster. Its methods implement those of Log."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._connection = connection
        self._counts: dict[str, int] = {}

    def create(self, topic: str, partitions: int, retention: timedelta | None) -> None:
        """Creates the topic unless it exists (Log.create)."""
        if not _NAME.fullmatch(topic) or topic in (".", ".."):
            raise CallError(
                f"{topic!r} is not a valid topic name",
                remedy="Use letters, digits, '.', '_' and '-', at most 249.",
            )
        check_partitions(topic, partitions)
        config = {"message.timestamp.type": "LogAppendTime", _RETENTION: _millis(retention)}
        is_new = self._create(topic, partitions, config)
        if not is_new and retention is not None and self.retention(topic) != retention:
            self._set_retention(topic, retention)

    def create_compacted(self, topic: str, partitions: int) -> None:
        """Creates a compacted topic, or adds log partitions until the existing one has this number."""
        self._create(topic, partitions, {_CLEANUP: "compact", "segment.ms": "3600000"})
        self.grow(topic, partitions)

    def grow(self, topic: str, partitions: int) -> None:
        """Adds log partitions until the topic has this number; keys may then go to other partitions.

        Raises:
            CallError: the topic does not exist.
            Unavailable: the broker cannot be reached.
        """
        self.identity(topic)  # refreshes the number of partitions
        if self.partitions(topic) >= partitions:
            return
        with self._connection.name_errors():
            request = ck_admin.NewPartitions(topic, partitions)
            try:
                self._connection.admin.create_partitions([request])[topic].result(SECONDS)
            except ck.KafkaException as error:
                if error.args[0].code() != ck.KafkaError.INVALID_PARTITIONS:  # another process was first
                    raise
            self._await_leaders(topic, partitions)
        self._counts[topic] = partitions

    def names(self) -> list[str]:
        """The names of all topics but Kafka's own, sorted."""
        with self._connection.name_errors():
            names = self._connection.admin.list_topics(timeout=SECONDS).topics
        return sorted(name for name in names if not name.startswith("__"))

    def exists(self, topic: str) -> bool:
        """Whether the topic exists, and this user may describe it. The number of topics makes no difference."""
        with self._connection.name_errors():
            try:
                self._ask(topic, self._describe)
            except ck.KafkaException as error:
                if error.args[0].code() in _MISSING:
                    return False
                raise
        return True

    def identity(self, topic: str) -> str:
        """An id that distinguishes this topic from a later topic of the same name (Log.identity)."""
        with self._connection.name_errors():
            try:
                description = self._ask(topic, self._describe)
            except ck.KafkaException as error:
                if error.args[0].code() == ck.KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise missing_topic(topic, self._connection.where, self.names()) from error
                raise
        self._counts[topic] = len(description.partitions)
        return str(description.topic_id)

    def partitions(self, topic: str) -> int:
        """The number of log partitions (Log.partitions)."""
        if topic not in self._counts:
            with self._connection.name_errors():
                topics = self._connection.admin.list_topics(timeout=SECONDS).topics
            metadata = topics.get(topic)
            if metadata is None or metadata.error is not None:
                raise missing_topic(topic, self._connection.where, self.names())
            self._counts[topic] = len(metadata.partitions)
        return self._counts[topic]

    def retention(self, topic: str) -> timedelta | None:
        """How long records are kept at least (Log.retention)."""
        self.partitions(topic)
        with self._connection.name_errors():
            millis = int(self._settings(topic)[_RETENTION].value)
        return None if millis < 0 else timedelta(milliseconds=millis)

    def largest_batch(self, topic: str) -> int | None:
        """The topic's limit of a batch in bytes; None if this user may not read it. Raises KafkaException."""
        try:
            settings = self._settings(topic)
        except ck.KafkaException as error:
            if error.args[0].code() in _NOT_ALLOWED:
                return None
            raise
        return min(int(settings[name].value) for name in _SIZES)

    def is_compacted(self, topic: str) -> bool:
        """Whether the topic keeps only the last record of each key. Raises KafkaException."""
        return "compact" in self._settings(topic)[_CLEANUP].value

    def start(self, topic: str) -> dict[int, int]:
        """Log partition → first offset that is kept (Log.start)."""
        return self._bounds(topic, range(self.partitions(topic)), ck_admin.OffsetSpec.earliest())

    def end(self, topic: str, partitions: Iterable[int] | None = None) -> dict[int, int]:
        """Log partition → next offset to be written (Log.end), of all or of these log partitions.

        Uncommitted transactions count: the broker confirms a commit before readers see its records, and a read
        after an append must not return nothing.
        """
        partitions = range(self.partitions(topic)) if partitions is None else partitions
        return self._bounds(topic, partitions, ck_admin.OffsetSpec.latest())

    def trim(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Deletes the records before these offsets (Log.trim)."""
        self.partitions(topic)
        ends = [ck.TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]

        def delete(_: str) -> None:
            for future in self._connection.admin.delete_records(ends, request_timeout=SECONDS).values():
                future.result(SECONDS)

        with self._connection.name_errors():
            self._ask(topic, delete)

    def _create(self, topic: str, partitions: int, config: Mapping[str, str]) -> bool:
        """Creates the topic if it does not exist; returns whether it was created."""
        request = ck_admin.NewTopic(topic, partitions, replication_factor=-1, config=dict(config))
        admin = self._connection.admin
        with self._connection.name_errors():
            try:
                admin.create_topics([request], operation_timeout=SECONDS)[topic].result(SECONDS)
                is_new = True
            except ck.KafkaException as error:
                code = error.args[0].code()
                if code == ck.KafkaError.TOPIC_AUTHORIZATION_FAILED and topic not in self.names():
                    raise Unavailable(
                        f"this user may not create topic {topic!r}",
                        where=self._connection.where,
                        remedy=f"Ask an administrator to create it with {partitions} log partitions.",
                    ) from error
                if code in _REFUSED:
                    raise Refused(
                        f"the cluster refuses to create topic {topic!r}: {clean_text(error.args[0].str())}",
                        where=self._connection.where,
                        remedy="Use another name (Kafka does not tell '.' from '_'), or ask an administrator to"
                        " create the topic.",
                    ) from error
                if code not in (ck.KafkaError.TOPIC_ALREADY_EXISTS, ck.KafkaError.TOPIC_AUTHORIZATION_FAILED):
                    raise
                is_new = False
            self._await_leaders(topic)
        return is_new

    def _set_retention(self, topic: str, retention: timedelta) -> None:
        entry = ck_admin.ConfigEntry(
            _RETENTION, _millis(retention), incremental_operation=ck_admin.AlterConfigOpType.SET
        )
        kind = ck_admin.ConfigResource.Type.TOPIC
        resource = ck_admin.ConfigResource(kind, topic, incremental_configs=[entry])
        with self._connection.name_errors():
            self._connection.admin.incremental_alter_configs([resource])[resource].result(SECONDS)

    def _settings(self, topic: str) -> dict[str, ck_admin.ConfigEntry]:
        """The topic's settings by name."""
        resource = ck_admin.ConfigResource(ck_admin.ConfigResource.Type.TOPIC, topic)
        future = self._connection.admin.describe_configs([resource])[resource]
        settings: dict[str, ck_admin.ConfigEntry] = future.result(SECONDS)
        return settings

    def _describe(self, topic: str) -> ck.TopicDescription:
        return self._connection.admin.describe_topics(ck.TopicCollection([topic]))[topic].result(SECONDS)

    def _bounds(self, topic: str, partitions: Iterable[int], spec: ck_admin.OffsetSpec) -> dict[int, int]:
        # Not through a consumer: its connection is blocked by the fetch that waits for more records.
        requests = {ck.TopicPartition(topic, partition): spec for partition in partitions}

        def list_offsets(_: str) -> dict[int, int]:
            answers = self._connection.admin.list_offsets(requests, request_timeout=SECONDS)
            return {key.partition: _valid_offset(future.result(SECONDS)) for key, future in answers.items()}

        with self._connection.name_errors():
            return self._ask(topic, list_offsets)

    def _ask(self, topic: str, request: Callable[[str], T]) -> T:
        """Sends a request about the topic, repeatedly until its log partitions have leaders."""
        deadline = monotonic() + SECONDS
        while True:
            try:
                return request(topic)
            except ck.KafkaException as error:
                if error.args[0].code() not in _STALE or monotonic() > deadline:
                    raise
                self._await_leaders(topic)

    def _await_leaders(self, topic: str, partitions: int = 1) -> None:
        """Waits until the topic has at least so many log partitions, each with a leader."""
        deadline = monotonic() + SECONDS
        while monotonic() < deadline:
            metadata = self._connection.admin.list_topics(topic, timeout=SECONDS).topics[topic]
            leaders = [p.leader for p in metadata.partitions.values() if p.error is None]
            is_complete = len(leaders) == len(metadata.partitions) >= partitions
            if metadata.error is None and is_complete and min(leaders) >= 0:
                return
            sleep(0.02)
        raise Unavailable(f"topic {topic!r} has no leader after {SECONDS:g} s", where=self._connection.where)


def _valid_offset(answer: ck_admin.ListOffsetsResultInfo) -> int:
    """The offset of an answer. A broker that dies meanwhile leaves -1001 there, and no error."""
    if answer.offset < 0:
        raise ck.KafkaException(ck.KafkaError(ck.KafkaError.LEADER_NOT_AVAILABLE, "the answer has no offset"))
    return int(answer.offset)


def _millis(retention: timedelta | None) -> str:
    return "-1" if retention is None else str(retention // timedelta(milliseconds=1))
