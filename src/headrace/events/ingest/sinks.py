"""Sinks: further receivers of a topic's events, each with its own position.

A sink is fed a batch after the table's commit. Only a leading sink is fed judged events before it, and has them
confirmed afterwards (LeadingSink). A sink that is
behind (because it is new, was unavailable, or the process was killed between the two commits) catches up from
the table, which has the verdicts, and not from the log, which may have been trimmed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import polars as pl
import pyarrow as pa

from headrace.declare.event import Contract
from headrace.events.contracts.shape import META, shape_of
from headrace.events.ingest.raw import join_records, read_events
from headrace.events.ingest.reader import ReadSpan
from headrace.events.ingest.rows import good_rows
from headrace.events.verdicts.judge import Verdicts
from headrace.kernel.errors import Refused, Unavailable
from headrace.kernel.position import LogPosition
from headrace.lake import LakeTable
from headrace.log import Batch, Log

__all__ = ["LeadingSink", "Sink", "SinkFeed", "sink_schema"]

_logger = logging.getLogger(__name__)

CHUNK = 200_000  # offsets in one chunk while catching up


class Sink(Protocol):
    """Receives the events of one topic, each exactly once.

    Attributes:
        name: its name, for errors and lineage.
        is_raw: whether it receives the bytes of every event, also of refused ones (raw.RAW). Otherwise it
            receives the good events with the contract's fields (sink_schema).
    """

    name: str
    is_raw: bool

    def position(self) -> LogPosition | None:
        """How far it has received the topic, from any process; None: nothing yet."""
        ...

    def apply(self, events: pa.Table, position: LogPosition) -> None:
        """Stores the events and moves its position, in one transaction.

        The position names the log partitions of one worker's share. For every other partition, and for a
        partition where it is behind the sink's position, the sink's position stays (LogPosition.advance).
        Events are in the order of their offsets within a log partition. Events before the sink's position are
        skipped: several workers may send the same events at once.
        """
        ...


@runtime_checkable
class LeadingSink(Sink, Protocol):
    """A sink that may be ahead of the topic's table. With its position it stores what it has ahead, and it
    compares that with the table's rows once the table has them.

    Attributes:
        may_lead: whether `lead` would store anything.
    """

    @property
    def may_lead(self) -> bool: ...

    def lead(self, batches: Sequence[pa.Table], committed: LogPosition, position: LogPosition) -> None:
        """Stores judged events that are not in the table yet, and moves its position, in one transaction.

        Args:
            batches: all good events between the two positions, as they were judged; a batch is the same object
                in every call.
            committed: a position up to which the table has the events, in this worker's log partitions.
            position: the position after the events.
        """
        ...

    def confirm(self, position: LogPosition) -> None:
        """Compares what it had ahead with the table, which has now read up to `position` in this worker's log
        partitions. Where they differ, it takes the table's rows."""
        ...

    def restart(self) -> None:
        """Ends the lead: the events after the table's position will be judged again."""
        ...


def sink_schema(contract: Contract) -> pa.Schema:
    """The columns of a sink's events: the contract's fields, then where and when the log accepted each event,
    and since when it is known (shape.META)."""
    names = ("_log_partition", "_log_offset", "_arrived_at", "_known_at")
    return pa.schema([*list(shape_of(contract).schema), *(META.field(name) for name in names)])


class SinkFeed:
    """Feeds one sink of one topic up to the position of the topic's table, and a leading sink ahead of it.

    One thread may call `lead` while another calls `follow`.

    Attributes:
        is_raw: whether the sink receives the bytes of every event.
        behind: the error of its last attempt; None: the sink is not behind.
    """

    def __init__(self, sink: Sink, contract: Contract, table: LakeTable, log: Log) -> None:
        self._sink = sink
        self._leading = sink if isinstance(sink, LeadingSink) else None
        self._lock = threading.Lock()
        self.is_raw = sink.is_raw
        self._log = log
        self.behind: Unavailable | None = None
        self._contract = contract
        self._table = table
        self._schema = sink_schema(contract)

    def follow(self, verdicts: Verdicts, batch: Batch | None, span: ReadSpan) -> None:
        """Feeds the sink the batch that was just committed, or everything that it lacks up to the batch's end.

        If something is unavailable, it logs a warning and sets `behind`: the table continues without this
        sink.

        Args:
            verdicts: the verdicts on the batch.
            batch: the records; only a raw sink needs them.
            span: the span of the log that the batch holds.
        """
        with self._lock:
            try:
                at = self._position(span.after)
                if all(at.next_offset(p) == span.before.next_offset(p) for p in span.after.offsets):
                    self._sink.apply(self._events(verdicts, batch), span.after)
                else:
                    self._catch_up(at, span.after)
                self.behind = None
            except Unavailable as error:
                self._note_behind(error)

    def catch_up(self, position: LogPosition) -> None:
        """Feeds the sink what it lacks up to the table's position. It handles errors as `follow` does."""
        with self._lock:
            try:
                at = self._position(position)
                if any(at.next_offset(p) < end for p, end in position.offsets.items()):
                    self._catch_up(at, position)
                self.behind = None
            except Unavailable as error:
                self._note_behind(error)

    @property
    def may_lead(self) -> bool:
        """Whether `lead` would store anything."""
        return self._leading is not None and self.behind is None and self._leading.may_lead

    def lead(self, batches: Sequence[pa.Table], committed: LogPosition, position: LogPosition) -> None:
        """Feeds a leading sink what is not committed yet (LeadingSink.lead). Does nothing while `follow` runs:
        the next call has these events too."""
        if self._leading is None or not self.may_lead or not self._lock.acquire(blocking=False):
            return
        try:
            self._leading.lead(batches, committed, position)
        except Unavailable as error:
            self._note_behind(error)
        finally:
            self._lock.release()

    def restart(self) -> None:
        """Ends the lead (LeadingSink.restart)."""
        if self._leading is not None:
            self._leading.restart()

    def _note_behind(self, error: Unavailable) -> None:
        if self.behind is None:  # warn once: it may stay behind for long
            _logger.warning("%s is behind on topic %s: %s", self._sink.name, self._contract.topic, error)
        self.behind = error

    def _position(self, target: LogPosition) -> LogPosition:
        """Where the sink is, after it has confirmed what the table has up to `target`."""
        if self._leading is not None:
            self._leading.confirm(target)
        at = self._sink.position()
        if at is None:
            return LogPosition(target.topic, target.log_id)
        if (at.topic, at.log_id) != (target.topic, target.log_id):
            raise Refused(
                f"{self._sink.name} holds the events of another log of topic {at.topic!r}",
                where=f"topic {target.topic} ({target.log_id})",
                remedy=f"Empty {self._sink.name}; it is filled again from table {self._table.name}.",
            )
        return at

    def _events(self, verdicts: Verdicts, batch: Batch | None) -> pa.Table:
        if not self.is_raw:
            return verdicts.good_rows
        assert batch is not None, "a raw sink needs the batch"
        return join_records(pl.DataFrame(pl.from_arrow(verdicts.rows.select(META.names))), batch)

    def _catch_up(self, at: LogPosition, target: LogPosition) -> None:
        for partition, end in sorted(target.offsets.items()):
            low = at.next_offset(partition)
            while low < end:
                events, low = self._read(partition, low, end)
                self._sink.apply(events, LogPosition(at.topic, at.log_id, {partition: low}))

    def _read(self, partition: int, low: int, end: int) -> tuple[pa.Table, int]:
        """Reads the events that the sink lacks from offset `low` on; also returns the offset after them."""
        if self.is_raw:
            return read_events(self._contract, self._table, self._log, partition, low, end, CHUNK)
        high = min(low + CHUNK, end)
        rows = good_rows(self._table, self._schema).filter(
            pl.col("_log_partition") == partition,
            pl.col("_log_offset").is_between(low, high, closed="left"),
        )
        return rows.sort("_log_offset").collect().to_arrow().cast(self._schema), high
