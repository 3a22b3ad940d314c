"""Watermarks: how far the admitted events of a topic have come in time, by log partition.

From them follows what a topic forgets of the identities that it has admitted (verdicts.seen). They depend on
the events of a log partition and their order there alone, so they are the same whoever reads it, however
its events fall into batches, and after a restart: the topic's table keeps them with its position.
"""

from __future__ import annotations

import json
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

__all__ = ["NEVER", "Watermarks", "merge"]

Int64s = NDArray[np.int64]

NEVER = int(np.iinfo(np.int64).min)
_FRONT, _LEAD = "front", "lead"


class Watermarks:
    """The watermarks of one topic.

    An event moves the watermark of its log partition to its time, but never past its arrival on the log: what
    a producer's clock says of the future makes nothing forgotten.

    Args:
        stored: what `text` gave; None: nothing was admitted yet.
        shared: see the attribute.

    Attributes:
        shared: whether the same event may lie in any log partition, and not in one alone. Then all are
            judged by one mark, the front, which moves between batches only (`advance`).
        marks: log partition → the watermark, microseconds since 1970.
        front: see `shared`.
        lead: the most by which the time of an admitted event lay after its arrival, microseconds.
    """

    def __init__(self, stored: str | None = None, *, shared: bool = False) -> None:
        known: dict[str, int] = json.loads(stored or "{}")
        self.shared = shared
        self.front = known.pop(_FRONT, NEVER)
        self.lead = known.pop(_LEAD, 0)
        self.marks = {int(partition): mark for partition, mark in known.items()}

    def mark(self, partition: int) -> int:
        """The mark by which an event of this log partition is judged; NEVER: nothing was admitted yet."""
        return self.front if self.shared else self.marks.get(partition, NEVER)

    def take(self, partitions: NDArray[np.int32], times: Int64s, arrived: Int64s) -> None:
        """Takes events as admitted.

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
        """Moves the front to where all log partitions have come.

        Args:
            behind: those that hold events that are not judged yet. One that was read to its end holds
                nothing up: what it gets from now on arrives after all that was judged.
        """
        marks = [self.marks.get(partition, NEVER) for partition in behind]
        self.front = max(self.front, min(marks) if marks else max(self.marks.values(), default=NEVER))

    def text(self) -> str:
        """The watermarks as JSON."""
        known = {str(partition): mark for partition, mark in self.marks.items()}
        if self.front != NEVER:
            known[_FRONT] = self.front
        if self.lead:
            known[_LEAD] = self.lead
        return json.dumps(known)


def merge(stored: str | None, text: str) -> str:
    """The later of each of two texts' watermarks: others have moved those of their log partitions."""
    before: dict[str, int] = json.loads(stored or "{}")
    after: dict[str, int] = json.loads(text)
    return json.dumps({name: max(before.get(name, NEVER), after.get(name, NEVER)) for name in before | after})
