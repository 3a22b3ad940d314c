"""The log's port: what an append-only topic can do, whoever keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.kernel.errors import CallError

__all__ = ["Batch", "Headers", "Log", "check_lengths"]

Headers = Mapping[str, bytes]


@dataclass(frozen=True, eq=False)
class Batch:
    """Some records of one topic, in the order of their offsets within each log partition.

    Attributes:
        partitions: int32[n], each record's log partition.
        offsets: int64[n], each record's offset in it.
        arrived_at: int64[n], when the log took each record, microseconds since 1970.
        values, keys, headers: lists of n.
        next: log partition → the offset to read from next, for every partition that was asked for.
    """

    partitions: NDArray[np.int32]
    offsets: NDArray[np.int64]
    arrived_at: NDArray[np.int64]
    values: list[bytes]
    keys: Sequence[bytes | None]
    headers: Sequence[Headers | None]
    next: dict[int, int]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, part: slice) -> Batch:
        """The records of a slice; `next` stays that of the whole batch."""
        return Batch(
            self.partitions[part],
            self.offsets[part],
            self.arrived_at[part],
            self.values[part],
            self.keys[part],
            self.headers[part],
            self.next,
        )


class Log(Protocol):
    """Topics of records, append-only, in log partitions.

    Every method may be called from any thread, and several processes may have the same log open.
    Methods that name a topic raise CallError where there is no such topic, and Unavailable where
    the log cannot be reached, is locked for too long, or is damaged.
    """

    def create(self, topic: str, partitions: int = 1) -> None:
        """Makes the topic, unless it is there (its number of partitions then stays)."""
        ...

    def topics(self) -> list[str]:
        """The topics' names, sorted."""
        ...

    def identity(self, topic: str) -> str:
        """What tells this topic from another that is made later under its name."""
        ...

    def partitions(self, topic: str) -> int:
        """How many log partitions the topic has: they are numbered from 0."""
        ...

    def append(
        self,
        topic: str,
        values: Sequence[bytes],
        keys: Sequence[bytes | None] | None = None,
        headers: Sequence[Headers | None] | None = None,
    ) -> list[tuple[int, int]]:
        """Appends records in one transaction; they are durable when this returns.

        A record with a key goes to the partition that `log.partition.partition_of` names; those
        without one go together to a partition of the log's choice.

        Returns:
            each record's (log partition, offset), in the order given.
        """
        ...

    def read(self, topic: str, offsets: Mapping[int, int], limit: int) -> Batch:
        """At most `limit` records, from these next offsets on, of these log partitions.

        Empty only where there is nothing more. Offsets that were trimmed away are passed over.
        """
        ...

    def wait(self, topic: str, offsets: Mapping[int, int], timeout: float) -> bool:
        """Whether there is anything at or past one of these next offsets, waiting up to `timeout` seconds."""
        ...

    def start(self, topic: str) -> dict[int, int]:
        """Log partition → the first offset that has not been trimmed away."""
        ...

    def end(self, topic: str) -> dict[int, int]:
        """Log partition → the next offset to be written."""
        ...

    def trim(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Lets the log forget the records before these offsets; it may keep some of them longer."""
        ...

    def close(self) -> None:
        """Closes it; nothing of it may be used after."""
        ...


def check_lengths(
    topic: str,
    values: Sequence[bytes],
    keys: Sequence[bytes | None] | None,
    headers: Sequence[Headers | None] | None,
) -> None:
    """Raises CallError where an append was given another number of keys or headers than of values."""
    for name, given in (("keys", keys), ("headers", headers)):
        if given is not None and len(given) != len(values):
            raise CallError(f"{len(values)} values but {len(given)} {name} were given for topic {topic!r}")
