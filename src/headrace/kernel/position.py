"""Position: how far a reader has read. Exactly once, parity, why and reproduce are all based on it.

A reader stores its position in the same transaction as its results (docs/decisions/0001-position.md).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec
from msgspec import Struct

__all__ = [
    "Lead",
    "LeadingPosition",
    "LogPosition",
    "Position",
    "SnapshotPosition",
    "decode_position",
    "encode_position",
    "leads_of",
]


class LogPosition(Struct, frozen=True, tag_field="kind", tag="log"):
    """How far a topic has been read.

    Attributes:
        topic: the topic's name.
        log_id: the identity of the topic; it changes when the topic is created again under its name.
        offsets: log partition → the first offset that has *not* been read. A log partition that is missing has
            not been read.
    """

    topic: str
    log_id: str
    offsets: dict[int, int] = {}

    def next_offset(self, partition: int) -> int:
        """The first offset of this log partition that has not been read."""
        return self.offsets.get(partition, 0)

    def covers(self, partition: int, offset: int) -> bool:
        """Whether the event at this log partition and offset has been read."""
        return offset < self.next_offset(partition)

    def with_offsets(self, offsets: Mapping[int, int]) -> LogPosition:
        """This position, moved to `offsets` in their log partitions."""
        return LogPosition(self.topic, self.log_id, {**self.offsets, **offsets})

    def with_leads(self, leads: Mapping[int, Lead]) -> LogPosition:
        """This position with these leads and no others: a LeadingPosition if there are any."""
        if not leads:
            return LogPosition(self.topic, self.log_id, self.offsets)
        return LeadingPosition(self.topic, self.log_id, self.offsets, dict(leads))

    def for_partitions(self, partitions: Collection[int]) -> LogPosition:
        """This position in these log partitions only."""
        return LogPosition(self.topic, self.log_id, {p: self.next_offset(p) for p in sorted(partitions)})

    def advance(self, offsets: Mapping[int, int]) -> LogPosition:
        """This position, moved to those of the `offsets` that are ahead of it; it never moves back."""
        return self.with_offsets({p: end for p, end in offsets.items() if end > self.next_offset(p)})


class Lead(Struct, frozen=True):
    """The events of a log partition that a reader was given before they were in the topic's table.

    Attributes:
        start: the offset of the first of them; they end at the reader's position.
        digest: a digest of the good ones, by which they are later compared with the table's rows.
    """

    start: int
    digest: int


class LeadingPosition(LogPosition, frozen=True, tag="leading"):
    """The position of a reader that may be ahead of the topic's table.

    Attributes:
        leads: log partition → its lead, if it has one.
    """

    leads: dict[int, Lead] = {}


class SnapshotPosition(Struct, frozen=True, tag_field="kind", tag="snapshot"):
    """One snapshot of one table: all of its rows have been read, and nothing later."""

    table: str
    snapshot_id: int


Position = LogPosition | LeadingPosition | SnapshotPosition
_decoder = msgspec.json.Decoder(Position)


def leads_of(position: Position | None) -> Mapping[int, Lead]:
    """Log partition → the lead that a position has there."""
    return position.leads if isinstance(position, LeadingPosition) else {}


def encode_position(position: Position) -> str:
    """Encodes a position as JSON with sorted keys, so that equal positions are equal text."""
    return msgspec.json.encode(msgspec.to_builtins(position, str_keys=True), order="sorted").decode()


def decode_position(text: str | bytes) -> Position:
    """Decodes a position that `encode_position` wrote. Raises msgspec.DecodeError on any other text."""
    position: Position = _decoder.decode(text)
    return position
