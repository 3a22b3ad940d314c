"""Forwarding: the good and the refused events of a topic to two more topics on Kafka, for people with
other consumers; each exactly once (headrace.log.kafka_forwarder).

A good event goes as it came, with its key. A refused one goes as JSON: `valid` (false), `error_type`,
`error_field`, `error_message`, `processed_at`, where it stands, and `raw`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import polars as pl
import pyarrow as pa

from headrace.declare.event import Contract
from headrace.events.quarantine import text_of
from headrace.events.verdicts.judge import FIRST
from headrace.kernel.errors import ProjectError
from headrace.kernel.position import LogPosition, decode_position, encode_position
from headrace.kernel.time import now
from headrace.log import Log
from headrace.log.partition import partition_of

if TYPE_CHECKING:
    from headrace.log.kafka_forwarder import Forwarder
    from headrace.log.kafka_writer import Record

__all__ = ["AGAIN", "AT", "ForwardSink"]

AT = "headrace.at"
"""A header of every forwarded record: where the event stands on its own topic, `partition:offset`. That of
a replay also has FIRST, as on the log."""

AGAIN = "headrace.again"
"""A header of a good event that the log had forgotten: its bytes were written again from the table."""

_PLACES = ("_key", "_log_partition", "_log_offset", "_first_partition", "_first_offset", "_again")
_LONGEST = 256 << 10  # bytes of a refused event that are forwarded: the rest would not fit into a record
_encode = msgspec.json.Encoder().encode


class ForwardSink:
    """Forwards the events of one topic (events.ingest.sinks.RawSink).

    Args:
        contract: it names two topics in `forward`; they and its own are made if they are not there.
        log: the profile's.

    Raises:
        ProjectError: the log is not on Kafka.
    """

    raw: Literal[True] = True

    def __init__(self, contract: Contract, log: Log) -> None:
        assert contract.forward is not None
        make = getattr(log, "forwarder", None)
        if make is None:
            raise ProjectError(
                f"forward={contract.forward!r} needs a log on Kafka: who else reads the embedded one?",
                where=str(contract.place),
                remedy='Name a cluster in the profile, log = "kafka://host:port", or leave forward= out.',
            )
        self.name = "topics {} and {}".format(*contract.forward)
        self._good, self._refused = contract.forward
        self._topic = contract.topic
        for topic in (contract.topic, *contract.forward):
            log.create(topic, contract.partitions)
        self._counts = {topic: log.partitions(topic) for topic in contract.forward}
        # Of this very log, to these very topics: made again or named otherwise, it begins anew.
        whole = "/".join((contract.topic, log.identity(contract.topic), *contract.forward))
        name = f"headrace.forward.{hashlib.sha256(whole.encode()).hexdigest()[:16]}"
        self._forwarder: Forwarder = make(name, log.partitions(contract.topic))

    def position(self) -> LogPosition | None:
        """How far every log partition has been forwarded, by whichever process."""
        found = [_position(value) for value in self._forwarder.positions().values()]
        if not found:
            return None
        offsets: dict[int, int] = {}
        for one in found:
            offsets |= one.offsets
        return LogPosition(found[0].topic, found[0].log_id, offsets)

    def apply(self, events: pa.Table, position: LogPosition) -> None:
        """Forwards the events (raw.RAW), and moves the position, a transaction each log partition.

        Raises:
            Conflict: another process has taken over.
            Unavailable: the broker is away.
        """
        rows = pl.DataFrame(pl.from_arrow(events))
        for partition, end in position.offsets.items():
            taken = self._forwarder.take(partition)
            at = 0 if taken is None else _position(taken).next_offset(partition)
            if end > at:
                new = rows.filter(pl.col("_log_partition") == partition, pl.col("_log_offset") >= at)
                move = LogPosition(position.topic, position.log_id, {partition: end})
                self._forwarder.commit(partition, self._records(new), encode_position(move).encode())

    def close(self) -> None:
        """Ends it."""
        self._forwarder.close()

    def _records(self, rows: pl.DataFrame) -> Iterator[Record]:
        """The records that these rows (raw.RAW) become; of each topic in the order of the rows."""
        valid = rows["_valid"]
        good, refused = rows.filter(valid), rows.filter(~valid)
        yield from self._addressed(self._good, good, good["_raw"].to_list())
        processed_at = now()
        told = (_encode(self._told(row, processed_at)) for row in refused.iter_rows(named=True))
        yield from self._addressed(self._refused, refused, told)

    def _addressed(self, topic: str, rows: pl.DataFrame, values: Iterable[bytes]) -> Iterator[Record]:
        count = self._counts[topic]
        columns = (rows[name].to_list() for name in _PLACES)
        for value, key, partition, offset, first_partition, first, again in zip(values, *columns, strict=True):
            headers = {AT: b"%d:%d" % (partition, offset)}
            if first is not None:
                headers[FIRST] = b"%d:%d" % (first_partition, first)
            if again:
                headers[AGAIN] = b"table"
            yield topic, partition % count if key is None else partition_of(key, count), value, key, headers

    def _told(self, row: dict[str, Any], processed_at: Any) -> dict[str, Any]:
        raw = row["_raw"]
        text, encoding = text_of(raw[:_LONGEST])
        return {
            "valid": False,
            "error_type": row["_code"],
            "error_field": row["_field"],
            "error_message": row["_reason"],
            "processed_at": processed_at,
            "topic": self._topic,
            "partition": row["_log_partition"],
            "offset": row["_log_offset"],
            "arrived_at": row["_arrived_at"],
            "raw": text,
            "raw_encoding": encoding,
            "raw_bytes": len(raw),
        }


def _position(value: bytes) -> LogPosition:
    found = decode_position(value)
    assert isinstance(found, LogPosition), "only log positions are forwarded to"
    return found
