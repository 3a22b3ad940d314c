"""Position: how far a reader has read. Exactly once, parity, why and reproduce are all based on it.

A reader stores its position in the same transaction as its results (docs/decisions/0001-position.md).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec
from msgspec import Struct

__all__ = ["LogPosition", "Position", "SnapshotPosition", "decode_position", "encode_position"]


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

    def for_partitions(self, partitions: Collection[int]) -> LogPosition:
        """This position in these log partitions only."""
        return LogPosition(self.topic, self.log_id, {p: self.next_offset(p) for p in sorted(partitions)})

    def advance(self, offsets: Mapping[int, int]) -> LogPosition:
        """This position, moved to those of the `offsets` that are ahead of it; it never moves back."""
        return self.with_offsets({p: end for p, end in offsets.items() if end > self.next_offset(p)})


class SnapshotPosition(Struct, frozen=True, tag_field="kind", tag="snapshot"):
    """One snapshot of one table: all of its rows have been read, and nothing later."""

    table: str
    snapshot_id: int


Position = LogPosition | SnapshotPosition
_decoder = msgspec.json.Decoder(Position)


def encode_position(position: Position) -> str:
    """Encodes a position as JSON with sorted keys, so that equal positions are equal text."""
    return msgspec.json.encode(msgspec.to_builtins(position, str_keys=True), order="sorted").decode()


def decode_position(text: str | bytes) -> Position:
    """Decodes a position that `encode_position` wrote. Raises msgspec.DecodeError on any other text."""
    position: Position = _decoder.decode(text)
    return position
