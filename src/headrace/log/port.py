"""The log's port: what an append-only topic can do, whoever keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.kernel.errors import CallError, TooLarge

__all__ = [
    "OVERHEAD", "Batch", "Headers", "Log", "Member", "append_fitting", "check_lengths", "check_sizes", "lag",
    "record_sizes",
]  # fmt: skip

Headers = Mapping[str, bytes]

OVERHEAD = 100
"""Bytes, at most, that a log writes around one record beside what `record_sizes` counts."""
_HEADER_OVERHEAD = 10  # the same around one header


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


class Member(Protocol):
    """One of those that share a topic's log partitions, each partition with one of them.

    Who dies or hangs loses its share to the others, and notices when it wakes up. For a moment two may
    believe that a partition is theirs: what they make of it must be held together by a position.
    """

    def partitions(self) -> frozenset[int]:
        """The log partitions that are its share now; maybe none.

        It is cheap, and meant to be asked before each batch: who does not ask for five minutes
        counts as hung. Before partitions are given up, `settle` (see Log.join) is called in this
        thread.

        Raises:
            Unavailable: the log cannot be reached.
        """
        ...

    def close(self) -> None:
        """Gives its share up at once."""
        ...


class Log(Protocol):
    """Topics of records, append-only, in log partitions.

    Every method may be called from any thread, and several processes may have the same log open.
    Methods that name a topic raise CallError where there is no such topic, and Unavailable where
    the log cannot be reached, is locked for too long, or is damaged.
    """

    def create(self, topic: str, partitions: int = 1, retention: timedelta | None = None) -> None:
        """Makes the topic, unless it is there: then its number of partitions stays.

        Args:
            retention: how long a record is kept at least; it may be kept longer. A topic that is there
                takes it on. None: a new topic keeps everything, one that is there what it keeps.
        """
        ...

    def retention(self, topic: str) -> timedelta | None:
        """How long the topic keeps a record at least; None: for good."""
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

        Raises:
            TooLarge: the topic does not take some of them, which it names; none was appended.
        """
        ...

    def largest(self, topic: str) -> int:
        """How many bytes (`record_sizes`) a record may have at most. A cluster's topic may get another
        limit at any time: it is seen within a minute, and `append` raises TooLarge meanwhile."""
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

    def join(self, topic: str, group: str, folder: Path, settle: Callable[[], None] = lambda: None) -> Member:
        """Becomes one of those that share the topic's log partitions under the name `group`.

        Args:
            group: letters, digits, '.', '_' and '-'. Groups know nothing of each other.
            folder: where this machine notes its members of groups; one for all its processes. A
                member that was killed and is started again from here takes up its share at once.
            settle: finishes what is being made of the share; called before some of it is given up.
        """
        ...

    def close(self) -> None:
        """Closes it; nothing of it may be used after."""
        ...


def lag(log: Log, topic: str, offsets: Mapping[int, int]) -> dict[int, int]:
    """Log partition → how many records lie from these next offsets to its end, at most: offsets that a
    log uses for itself (Kafka's markers of transactions) are counted too. What was trimmed is not.

    Args:
        offsets: log partition → the next offset; 0 where it is not named.
    """
    start = log.start(topic)
    return {
        partition: max(0, end - max(offsets.get(partition, 0), start.get(partition, 0)))
        for partition, end in log.end(topic).items()
    }


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


def record_sizes(
    values: Sequence[bytes],
    keys: Sequence[bytes | None] | None = None,
    headers: Sequence[Headers | None] | None = None,
) -> list[int]:
    """The bytes of each record, to be compared with `Log.largest`: value, key and headers."""
    sizes = list(map(len, values))
    if keys is not None:
        sizes = [size + len(key or b"") for size, key in zip(sizes, keys, strict=True)]
    if headers is not None:
        sizes = [size + _header_size(given) for size, given in zip(sizes, headers, strict=True)]
    return sizes


def _header_size(headers: Headers | None) -> int:
    if not headers:
        return 0
    return sum(len(name.encode()) + len(value) + _HEADER_OVERHEAD for name, value in headers.items())


def check_sizes(topic: str, sizes: Sequence[int], largest: int, where: str, remedy: str) -> None:
    """Raises TooLarge where records of these sizes are larger than `largest`; it names them."""
    if max(sizes) > largest:
        places = [place for place, size in enumerate(sizes) if size > largest]
        raise TooLarge(
            f"topic {topic!r} takes records of {largest:,} bytes at most, and {len(places):,} of"
            f" {len(sizes):,} are larger, up to {max(sizes):,} bytes",
            where=where,
            remedy=remedy,
            places=places,
        )


def append_fitting(
    log: Log,
    topic: str,
    values: Sequence[bytes],
    keys: Sequence[bytes | None] | None = None,
    headers: Sequence[Headers | None] | None = None,
) -> list[tuple[int, int] | None]:
    """Appends all records that the topic takes, in one transaction (see Log.append).

    Returns:
        each record's (log partition, offset), in the order given; None: it is too large.
    """
    places = list(range(len(values)))
    positions: list[tuple[int, int] | None] = [None] * len(values)
    while places:
        try:
            appended = log.append(
                topic,
                [values[place] for place in places],
                keys and [keys[place] for place in places],
                headers and [headers[place] for place in places],
            )
        except TooLarge as error:
            large = set(error.places)
            places = [place for at, place in enumerate(places) if at not in large]
            continue
        for place, position in zip(places, appended, strict=True):
            positions[place] = position
        break
    return positions
