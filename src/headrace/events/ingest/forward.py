"""Forwarding: copies the good and the refused events of a topic to two more Kafka topics, for other consumers;
each event exactly once (headrace.log.kafka.forwarder).

A good event is copied unchanged, with its key. A refused event becomes JSON: `valid` (false), `error_type`,
`error_field`, `error_message`, `processed_at`, its log position, and `raw`. A good event that is too large for
its topic goes to the topic of the refused events too, with `valid` true, so that it does not block the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec
import polars as pl
import pyarrow as pa

from headrace.declare.event import Contract
from headrace.events.quarantine import text_of
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import ProjectError, TooLarge, Unavailable
from headrace.kernel.position import LogPosition, decode_position, encode_position
from headrace.kernel.properties import FIRST_POSITION, FORWARDED_FROM, REWRITTEN
from headrace.kernel.time import now
from headrace.log import Log, record_sizes
from headrace.log.partition import partition_of

if TYPE_CHECKING:
    from headrace.log.kafka.forwarder import KafkaForwarder
    from headrace.log.kafka.writer import KafkaRecord

__all__ = ["ForwardSink"]


_LONGEST = 256 << 10  # bytes of a refused event that are forwarded, if a record of its topic takes them
_LONGEST_TEXT = 500  # characters of a reason, and of a field's name, which an event may choose
_TOO_LARGE = "too_large"
_logger = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


@runtime_checkable
class _ForwardingLog(Protocol):
    """A log that appends records and stores a position in one transaction, where other programs read it."""

    def forwarder(self, name: str, partitions: int, topics: Sequence[str]) -> KafkaForwarder: ...


class ForwardSink:
    """Forwards the events of one topic (events.ingest.sinks.Sink).

    Args:
        contract: names two topics in `forward`; they and its own topic are created if they do not exist.
        log: the profile's log.

    Raises:
        ProjectError: the log is not on Kafka.
    """

    is_raw = True

    def __init__(self, contract: Contract, log: Log) -> None:
        assert contract.forward is not None
        if not isinstance(log, _ForwardingLog):
            raise ProjectError(
                f"forward={contract.forward!r} needs a log on Kafka: only Headrace reads the embedded log",
                where=str(contract.place),
                remedy='Name a cluster in the profile, log = "kafka://host:port", or leave forward= out.',
            )
        self.name = "topics {} and {}".format(*contract.forward)
        self._good, self._refused = contract.forward
        self._topic = contract.topic
        self._place = contract.place
        for topic in (contract.topic, *contract.forward):
            log.create(topic, contract.partitions)
        self._counts = {topic: log.partitions(topic) for topic in contract.forward}
        # The name includes the log's identity and the topics, so a new log or other topics start from nothing.
        origin = "/".join((contract.topic, log.identity(contract.topic), *contract.forward))
        name = f"headrace.forward.{short_digest(origin)}"
        self._log = log
        self._forwarder = log.forwarder(name, log.partitions(contract.topic), contract.forward)

    def position(self) -> LogPosition | None:
        """How far each log partition has been forwarded, by any process."""
        committed = [_position(value) for value in self._forwarder.positions().values()]
        if not committed:
            return None
        offsets: dict[int, int] = {}
        for position_of_partition in committed:
            offsets |= position_of_partition.offsets
        return LogPosition(committed[0].topic, committed[0].log_id, offsets)

    def apply(self, events: pa.Table, position: LogPosition) -> None:
        """Forwards the events (raw.RAW) and moves the position, in one transaction per log partition.

        Raises:
            Conflict: another process has taken over.
            Unavailable: the broker cannot be reached.
        """
        rows = pl.DataFrame(pl.from_arrow(events))
        for partition, end in position.offsets.items():
            move = LogPosition(position.topic, position.log_id, {partition: end})
            self._forward(rows.filter(pl.col("_log_partition") == partition), partition, move)

    def _forward(self, rows: pl.DataFrame, partition: int, move: LogPosition) -> None:
        large: set[int] = set()  # offsets of events that the broker found too large: it does not tell its limit
        while True:
            committed = self._forwarder.take_over(partition)
            start = 0 if committed is None else _position(committed).next_offset(partition)
            if move.offsets[partition] <= start:
                return
            new = rows.filter(pl.col("_log_offset") >= start)
            records = self._records(new, large)
            try:
                self._forwarder.commit(partition, records, encode_position(move).encode())
                return
            except TooLarge as error:
                refused = {new["_log_offset"][place] for place in error.places}
                if refused and refused <= large:  # although they were cut to nothing
                    raise Unavailable(
                        f"topic {self._refused!r} does not accept a record of a thousand bytes",
                        where=str(self._place),
                        remedy="Raise the topic's max.message.bytes.",
                    ) from error
                large |= refused

    def close(self) -> None:
        """Closes the connection to the broker."""
        self._forwarder.close()

    def _records(self, rows: pl.DataFrame, large: Collection[int]) -> list[KafkaRecord]:
        """One record for each of these rows (raw.RAW), in their order.

        Args:
            large: offsets of events whose whole records are too large for their topics.
        """
        processed_at = now()
        most_good, most_refused = self._log.largest(self._good), self._log.largest(self._refused)
        records: list[KafkaRecord] = []
        for row in rows.iter_rows(named=True):
            key, value, headers = row["_key"], row["_raw"], _headers(row)
            is_large = row["_log_offset"] in large
            if row["_valid"]:
                (size,) = record_sizes([value], [key], [headers])
                if size <= most_good and not is_large:
                    records.append((self._good, self._partition(self._good, row), value, key, headers))
                    continue
                row["_code"], row["_reason"] = _TOO_LARGE, f"{size:,} bytes are too many for {self._good}"
                _logger.warning(
                    "the good event at %s of topic %s is not forwarded whole: %s; topic %s has what fits",
                    headers[FORWARDED_FROM].decode(),
                    self._topic,
                    row["_reason"],
                    self._refused,
                )
            value, key = self._cut(row, headers, processed_at, 0 if is_large else most_refused)
            records.append((self._refused, self._partition(self._refused, row), value, key, headers))
        return records

    def _cut(
        self, row: dict[str, Any], headers: dict[str, bytes], processed_at: Any, largest: int
    ) -> tuple[bytes, bytes | None]:
        """The value and key of a record that describes an event, with as many of its bytes as fit in `largest`.

        If not even the description fits, the key is left out too.
        """
        longest = _LONGEST
        while True:
            value = _encode(self._describe(row, processed_at, longest))
            (size,) = record_sizes([value], [row["_key"]], [headers])
            if size <= largest:
                return value, row["_key"]
            if longest == 0:
                return value, None
            longest //= 2

    def _partition(self, topic: str, row: dict[str, Any]) -> int:
        count = self._counts[topic]
        return row["_log_partition"] % count if row["_key"] is None else partition_of(row["_key"], count)

    def _describe(self, row: dict[str, Any], processed_at: Any, longest: int) -> dict[str, Any]:
        raw = row["_raw"]
        text, encoding = text_of(raw[:longest])
        return {
            "valid": row["_valid"],
            "error_type": row["_code"],
            "error_field": row["_field"] and row["_field"][:_LONGEST_TEXT],
            "error_message": row["_reason"] and row["_reason"][:_LONGEST_TEXT],
            "processed_at": processed_at,
            "topic": self._topic,
            "partition": row["_log_partition"],
            "offset": row["_log_offset"],
            "arrived_at": row["_arrived_at"],
            "raw": text,
            "raw_encoding": encoding,
            "raw_bytes": len(raw),
        }


def _headers(row: dict[str, Any]) -> dict[str, bytes]:
    headers = {FORWARDED_FROM: b"%d:%d" % (row["_log_partition"], row["_log_offset"])}
    if row["_first_offset"] is not None:
        headers[FIRST_POSITION] = b"%d:%d" % (row["_first_partition"], row["_first_offset"])
    if row["_rewritten"]:
        headers[REWRITTEN] = b"table"
    return headers


def _position(value: bytes) -> LogPosition:
    committed = decode_position(value)
    assert isinstance(committed, LogPosition), "a forwarder commits only log positions"
    return committed
