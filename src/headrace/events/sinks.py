"""Sinks: what else takes the good events of a topic, each with a position of its own.

A sink never runs ahead of the topic's table: it is fed a batch once that is committed. One that is
behind (new, away for a while, killed between the two commits) catches up from the table, where the
verdicts are, and not from the log, which may have been trimmed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import polars as pl
import pyarrow as pa

from headrace.declare.event import Contract
from headrace.events.rows import good_rows
from headrace.events.shape import META, shape_of
from headrace.kernel.errors import Refused, Unavailable
from headrace.kernel.position import LogPosition
from headrace.lake import LakeTable

__all__ = ["Feed", "Sink", "sink_schema"]

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
        it lies behind the sink's own, that one stays as it is (LogPosition.further). Events come in
        the order of their offsets within a log partition. Those before the sink's own position were
        taken before, and are passed over: several workers may give it the same ones at once.
        """
        ...


def sink_schema(contract: Contract) -> pa.Schema:
    """What a sink is given: the contract's fields, _log_partition, _log_offset and _arrived_at."""
    names = ("_log_partition", "_log_offset", "_arrived_at")
    return pa.schema([*list(shape_of(contract).schema), *(META.field(name) for name in names)])


class Feed:
    """One sink of one topic, and what keeps it level with the topic's table.

    Attributes:
        behind: why it is behind, when its last attempt met something unavailable.
    """

    def __init__(self, sink: Sink, contract: Contract, table: LakeTable) -> None:
        self.sink = sink
        self.behind: Unavailable | None = None
        self._contract = contract
        self._table = table
        self._schema = sink_schema(contract)

    def follow(self, good: pa.Table, before: LogPosition, after: LogPosition) -> None:
        """Gives the sink a batch that the table has just taken, or all that it lacks up to `after`.

        What is unavailable is remembered, not raised: the table goes on without this sink.
        """
        try:
            at = self._position(after)
            if all(at.next_offset(p) == before.next_offset(p) for p in after.offsets):
                self.sink.apply(good, after)
            else:
                self._catch_up(at, after)
            self.behind = None
        except Unavailable as error:
            self.behind = error

    def catch_up(self, position: LogPosition) -> None:
        """Gives the sink what it lacks up to the table's position."""
        try:
            at = self._position(position)
            if any(at.next_offset(p) < end for p, end in position.offsets.items()):
                self._catch_up(at, position)
            self.behind = None
        except Unavailable as error:
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

    def _catch_up(self, at: LogPosition, target: LogPosition) -> None:
        for good, position in self._chunks(at, target):
            self.sink.apply(good, position)

    def _chunks(self, at: LogPosition, target: LogPosition) -> Iterator[tuple[pa.Table, LogPosition]]:
        rows = good_rows(self._table, self._schema)
        for partition, end in sorted(target.offsets.items()):
            for low in range(at.next_offset(partition), end, CHUNK):
                high = min(low + CHUNK, end)
                part = rows.filter(
                    pl.col("_log_partition") == partition,
                    pl.col("_log_offset").is_between(low, high, closed="left"),
                )
                move = LogPosition(at.topic, at.log_id, {partition: high})
                yield part.sort("_log_offset").collect().to_arrow().cast(self._schema), move
