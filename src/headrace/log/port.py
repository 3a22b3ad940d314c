"""The log's port: the operations on append-only topics that every log supports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from headrace.kernel.errors import CallError, TooLarge

__all__ = [
    "OVERHEAD",
    "Batch",
    "Headers",
    "Log",
    "Member",
    "append_fitting",
    "check_lengths",
    "check_partitions",
    "check_sizes",
    "lag",
    "missing_topic",
    "record_sizes",
]

Headers = Mapping[str, bytes]

OVERHEAD = 100
"""Bytes, at most, that a log stores for one record in addition to `record_sizes`."""
_HEADER_OVERHEAD = 10  # bytes, at most, that a log stores for one header beside its name and value


class Batch(Struct, frozen=True, eq=False):
    """Records of one topic, in the order of their offsets within each log partition.

    Attributes:
        partitions: int32[n], each record's log partition.
        offsets: int64[n], each record's offset in it.
        arrived_at: int64[n], when the log accepted each record, microseconds since 1970.
        values, keys, headers: lists of n.
        next: log partition → the offset to read from next, for every partition that was read.
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
    """A member of a group that shares a topic's log partitions: each partition belongs to one member.

    A member that dies or hangs loses its share to the others, and notices this if it continues. For a moment
    two members may both believe that a partition is theirs, so a caller must store a position with its results,
    to detect a second writer.
    """

    def partitions(self) -> frozenset[int]:
        """The log partitions of its current share; perhaps none.

        Call it before each batch; the call is cheap. A member that does not call it for five minutes counts as
        hung. Before partitions are released, it calls `settle` (see Log.join) in this thread.

        Raises:
            Unavailable: the log cannot be reached.
        """
        ...

    def close(self) -> None:
        """Leaves the group, which divides the share among the others at once."""
        ...


class Log(Protocol):
    """Topics of records, append-only, in log partitions.

    Any thread may call any method, and several processes may have the same log open. Methods that name a
    topic raise CallError if the topic does not exist, and Unavailable if the log cannot be reached, is
    locked for too long, or is damaged.

    Attributes:
        is_dense: whether each offset before the end has, or had, a record that readers get. On Kafka the
            markers of transactions take offsets too, so the difference of two offsets is only the most records
            that may lie between them.
    """

    is_dense: bool

    def create(self, topic: str, partitions: int = 1, retention: timedelta | None = None) -> None:
        """Creates the topic unless it exists. An existing topic keeps its number of partitions.

        Args:
            topic: its name.
            partitions: the number of its log partitions.
            retention: how long a record is kept at least; it may be kept longer. An existing topic gets this
                retention too. None: a new topic keeps everything, an existing one keeps its retention.
        """
        ...

    def retention(self, topic: str) -> timedelta | None:
        """How long the topic keeps a record at least; None: forever."""
        ...

    def topics(self) -> list[str]:
        """The names of all topics, sorted."""
        ...

    def identity(self, topic: str) -> str:
        """An id that distinguishes this topic from a later topic of the same name."""
        ...

    def partitions(self, topic: str) -> int:
        """The number of log partitions; they are numbered from 0."""
        ...

    def append(
        self,
        topic: str,
        values: Sequence[bytes],
        keys: Sequence[bytes | None] | None = None,
        headers: Sequence[Headers | None] | None = None,
    ) -> list[tuple[int, int]]:
        """Appends records in one transaction; they are durable on return.

        A record with a key goes to the partition that `log.partition.partition_of` names; the records
        without a key go together to a partition that the log chooses.

        Returns:
            Each record's (log partition, offset), in the order given.

        Raises:
            TooLarge: some records are larger than the topic accepts; the error has their places. No record was
                appended.
            Refused: the topic does not accept such records, whatever their size. No record was appended.
            NotAppended: the log cannot be written. No record was appended.
            Unavailable: the log did not answer. The records may be on it nevertheless.
        """
        ...

    def largest(self, topic: str) -> int:
        """How many bytes (`record_sizes`) a record may have.

        On Kafka the topic's limit may change at any time. The new limit is known within a minute; until then
        `append` may raise TooLarge.
        """
        ...

    def read(self, topic: str, offsets: Mapping[int, int], limit: int) -> Batch:
        """Reads at most `limit` records of these log partitions, from these offsets on.

        The batch is empty only if there is nothing more. Offsets that were trimmed are skipped.
        """
        ...

    def wait(self, topic: str, offsets: Mapping[int, int], timeout: float) -> bool:
        """Waits up to `timeout` seconds for a record at or after one of these offsets; whether there is one."""
        ...

    def start(self, topic: str) -> dict[int, int]:
        """Log partition → the first offset that has not been trimmed."""
        ...

    def end(self, topic: str) -> dict[int, int]:
        """Log partition → the next offset to be written."""
        ...

    def trim(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Allows the log to delete the records before these offsets; it may keep some of them longer."""
        ...

    def join(self, topic: str, group: str, folder: Path, settle: Callable[[], None] = lambda: None) -> Member:
        """Joins the group that shares the topic's log partitions under this name.

        Args:
            topic: the topic.
            group: letters, digits, '.', '_' and '-'. Groups are independent of each other.
            folder: stores the names of this machine's members; the same folder for all its processes. A member
                that was killed and is started again with this folder gets its share back at once.
            settle: finishes work on the share; called before some of its partitions are released.
        """
        ...

    def close(self) -> None:
        """Closes the log, which must not be used afterwards."""
        ...


def lag(
    log: Log, topic: str, offsets: Mapping[int, int], end: Mapping[int, int] | None = None
) -> dict[int, int]:
    """Log partition → the most records from these offsets to its end.

    Offsets without a record count too (see Log.is_dense); trimmed records do not.

    Args:
        log: the log.
        topic: the topic.
        offsets: log partition → the next offset to read; 0 for a partition that is missing.
        end: the topic's end (Log.end), from a caller that has read it.
    """
    start = log.start(topic)
    return {
        partition: max(0, last - max(offsets.get(partition, 0), start.get(partition, 0)))
        for partition, last in (log.end(topic) if end is None else end).items()
    }


def missing_topic(topic: str, where: str, names: Sequence[str]) -> CallError:
    """The error for a topic that does not exist.

    Args:
        topic: the topic.
        where: the log's address.
        names: the topics that exist.
    """
    topics = ", ".join(names) or "none yet"
    return CallError(f"topic {topic!r} does not exist", where=where, remedy=f"The topics are: {topics}.")


def check_partitions(topic: str, partitions: int) -> None:
    """Raises CallError if a topic cannot have this number of log partitions."""
    if partitions < 1:
        raise CallError(f"topic {topic!r} needs at least one log partition, not {partitions}")


def check_lengths(
    topic: str,
    values: Sequence[bytes],
    keys: Sequence[bytes | None] | None,
    headers: Sequence[Headers | None] | None,
) -> None:
    """Raises CallError if the number of keys or headers of an append differs from that of the values."""
    for name, items in (("keys", keys), ("headers", headers)):
        if items is not None and len(items) != len(values):
            raise CallError(f"{len(values)} values but {len(items)} {name} were given for topic {topic!r}")


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
        sizes = [size + _header_size(items) for size, items in zip(sizes, headers, strict=True)]
    return sizes


def _header_size(headers: Headers | None) -> int:
    if not headers:
        return 0
    return sum(len(name.encode()) + len(value) + _HEADER_OVERHEAD for name, value in headers.items())


def check_sizes(topic: str, sizes: Sequence[int], largest: int, where: str, remedy: str) -> None:
    """Raises TooLarge, with the records' places, if records of these sizes are larger than `largest`."""
    if max(sizes) > largest:
        places = [place for place, size in enumerate(sizes) if size > largest]
        raise TooLarge(
            f"topic {topic!r} accepts records of at most {largest:,} bytes, and {len(places):,} of"
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
    """Appends all records that are not too large for the topic, in one transaction (see Log.append).

    Returns:
        Each record's (log partition, offset), in the order given; None: it is too large.
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
