"""Sinks: what else takes the events of a topic, each with a position of its own.

A sink never runs ahead of the topic's table: it is fed a batch once that is committed. One that is
behind (new, away for a while, killed between the two commits) catches up from the table, where the
verdicts are, and not from the log, which may have been trimmed.
"""

from __future__ import annotations

import logging
from typing import Literal, Protocol

import polars as pl
import pyarrow as pa

from headrace.declare.event import Contract
from headrace.events.contracts.shape import META, shape_of
from headrace.events.ingest.raw import read_events, with_raw
from headrace.events.ingest.rows import good_rows
from headrace.events.verdicts.judge import Verdicts
from headrace.kernel.errors import Refused, Unavailable
from headrace.kernel.position import LogPosition
from headrace.lake import LakeTable
from headrace.log import Batch, Log

__all__ = ["Feed", "RawSink", "Sink", "sink_schema"]

_logger = logging.getLogger(__name__)

CHUNK = 200_000  # offsets a chunk while catching up


class Sink(Protocol):
    """Takes good events, once each.

    Attributes:
        name: what it is, for errors and lineage.
    """

    name: str

    def position(self) -> LogPosition | None:
        """How far it has taken the topic, whoever gave it; None: nothing yet."""
        ...

    def apply(self, good: pa.Table, position: LogPosition) -> None:
        """Takes the events (see sink_schema) and moves its position, in one transaction.

        The position names some log partitions, those of one worker's share; in all others, and where
        it lies behind the sink's own, that one stays as it is (LogPosition.advance). Events come in
        the order of their offsets within a log partition. Those before the sink's own position were
        taken before, and are passed over: several workers may give it the same ones at once.
        """
        ...


class RawSink(Sink, Protocol):
    """A sink that is given every event as it came, refused ones too (raw.RAW), instead of the good ones
    as the contract sees them."""

    raw: Literal[True]


def sink_schema(contract: Contract) -> pa.Schema:
    """What a sink is given: the contract's fields, _log_partition, _log_offset and _arrived_at."""
    names = ("_log_partition", "_log_offset", "_arrived_at")
    return pa.schema([*list(shape_of(contract).schema), *(META.field(name) for name in names)])


class Feed:
    """One sink of one topic, and what keeps it level with the topic's table.

    Attributes:
        raw: whether the sink is a RawSink.
        behind: why it is behind, when its last attempt met something unavailable.
    """

    def __init__(self, sink: Sink, contract: Contract, table: LakeTable, log: Log) -> None:
        self.sink = sink
        self.raw: bool = getattr(sink, "raw", False)
        self._log = log
        self.behind: Unavailable | None = None
        self._contract = contract
        self._table = table
        self._schema = sink_schema(contract)

    def follow(self, verdicts: Verdicts, batch: Batch | None, before: LogPosition, after: LogPosition) -> None:
        """Gives the sink a batch that the table has just taken, or all that it lacks up to `after`.

        Args:
            batch: the batch that was judged; a raw sink needs it.

        What is unavailable is said and remembered, not raised: the table goes on without this sink.
        """
        try:
            at = self._position(after)
            if all(at.next_offset(p) == before.next_offset(p) for p in after.offsets):
                self.sink.apply(self._judged(verdicts, batch), after)
            else:
                self._catch_up(at, after)
            self.behind = None
        except Unavailable as error:
            self._fall_behind(error)

    def catch_up(self, position: LogPosition) -> None:
        """Gives the sink what it lacks up to the table's position."""
        try:
            at = self._position(position)
            if any(at.next_offset(p) < end for p, end in position.offsets.items()):
                self._catch_up(at, position)
            self.behind = None
        except Unavailable as error:
            self._fall_behind(error)

    def _fall_behind(self, error: Unavailable) -> None:
        if self.behind is None:  # once: it may stay so for long
            _logger.warning("%s is behind on topic %s: %s", self.sink.name, self._contract.topic, error)
        self.behind = error

    def _position(self, target: LogPosition) -> LogPosition:
        at = self.sink.position()
        if at is None:
            return LogPosition(target.topic, target.log_id)
        if (at.topic, at.log_id) != (target.topic, target.log_id):
            raise Refused(
                f"{self.sink.name} holds what was made of another log of topic {at.topic!r}",
                where=f"topic {target.topic} ({target.log_id})",
                remedy=f"Empty {self.sink.name}; it is filled again from table {self._table.name}.",
            )
        return at

    def _judged(self, verdicts: Verdicts, batch: Batch | None) -> pa.Table:
        if not self.raw:
            return verdicts.good_rows
        assert batch is not None, "a raw sink needs the batch"
        return with_raw(pl.DataFrame(pl.from_arrow(verdicts.rows.select(META.names))), batch)

    def _catch_up(self, at: LogPosition, target: LogPosition) -> None:
        for partition, end in sorted(target.offsets.items()):
            low = at.next_offset(partition)
            while low < end:
                events, low = self._read(partition, low, end)
                self.sink.apply(events, LogPosition(at.topic, at.log_id, {partition: low}))

    def _read(self, partition: int, low: int, end: int) -> tuple[pa.Table, int]:
        """What the sink lacks of a log partition from `low` on, and the offset that it reaches up to."""
        if self.raw:
            return read_events(self._contract, self._table, self._log, partition, low, end, CHUNK)
        high = min(low + CHUNK, end)
        rows = good_rows(self._table, self._schema).filter(
            pl.col("_log_partition") == partition,
            pl.col("_log_offset").is_between(low, high, closed="left"),
        )
        return rows.sort("_log_offset").collect().to_arrow().cast(self._schema), high
