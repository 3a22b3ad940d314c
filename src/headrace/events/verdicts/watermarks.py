"""Watermarks: the latest time of the admitted events of a topic, by log partition.

They decide which admitted identities a topic forgets (verdicts.identities). A watermark depends only on the
events of its log partition and their order there. So it does not depend on which process reads them or on how
they are batched, and it survives a restart: the topic's table stores it with its position.
"""

from __future__ import annotations

import json
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

__all__ = ["NEVER", "Watermarks", "merge_watermarks"]

Int64s = NDArray[np.int64]

NEVER = int(np.iinfo(np.int64).min)
_FRONT, _LEAD = "front", "lead"


class Watermarks:
    """The watermarks of one topic.

    An event moves the watermark of its log partition to its time, but never past its arrival on the log: a
    producer's clock that is ahead must not cause identities to be forgotten.

    Args:
        stored: the result of `encode`; None: no event was admitted yet.
        shared: see the attribute.

    Attributes:
        shared: whether copies of an event may lie in different log partitions. Then all events are judged by
            one mark, the front, which moves only between batches (`advance`).
        marks: log partition → its watermark, microseconds since 1970.
        front: the mark of a shared topic, microseconds since 1970.
        lead: the most by which the time of an admitted event lay after its arrival, microseconds.
    """

    def __init__(self, stored: str | None = None, *, shared: bool = False) -> None:
        known: dict[str, int] = json.loads(stored or "{}")
        self.shared = shared
        self.front = known.pop(_FRONT, NEVER)
        self.lead = known.pop(_LEAD, 0)
        self.marks = {int(partition): mark for partition, mark in known.items()}

    def mark(self, partition: int) -> int:
        """The mark by which events of a log partition are judged; NEVER: no event was admitted yet."""
        return self.front if self.shared else self.marks.get(partition, NEVER)

    def record(self, partitions: NDArray[np.int32], times: Int64s, arrived: Int64s) -> None:
        """Record admitted events.

        Args:
            partitions: int32[n], their log partitions.
            times, arrived: int64[n], their times and arrivals, microseconds since 1970.
        """
        self.lead = max(self.lead, int((times - arrived).max(initial=0)))
        capped = np.minimum(times, arrived)
        for partition in np.unique(partitions).tolist():
            latest = int(capped[partitions == partition].max())
            self.marks[partition] = max(self.marks.get(partition, NEVER), latest)

    def advance(self, behind: Collection[int]) -> None:
        """Move the front to the earliest watermark of the log partitions that are behind.

        Args:
            behind: the log partitions with events that are not judged yet. A partition that was read to its end
                does not count: all its further events arrive after those that were judged.
        """
        marks = [self.marks.get(partition, NEVER) for partition in behind]
        self.front = max(self.front, min(marks) if marks else max(self.marks.values(), default=NEVER))

    def encode(self) -> str:
        """Encode the watermarks as JSON."""
        known = {str(partition): mark for partition, mark in self.marks.items()}
        if self.front != NEVER:
            known[_FRONT] = self.front
        if self.lead:
            known[_LEAD] = self.lead
        return json.dumps(known)


def merge_watermarks(stored: str | None, text: str) -> str:
    """Merge two encoded sets of watermarks: the later mark counts, since other processes move other marks."""
    before: dict[str, int] = json.loads(stored or "{}")
    after: dict[str, int] = json.loads(text)
    return json.dumps({name: max(before.get(name, NEVER), after.get(name, NEVER)) for name in before | after})
