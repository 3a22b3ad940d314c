"""Seen: which identities have been admitted lately, so that the same event again is refused.

An identity is kept as 128 bits of hash with its event's time: 24 bytes. Among a billion different
identities at once, two share a hash with a chance of about 1 in 10^21. Only those within `within` of
the watermark (the latest event time admitted) are kept, so that memory follows the rate, not the age,
of the topic. What was seen is in memory alone: it is read back from the topic's table at start.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["Seen", "hashes"]

Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]
Hash = tuple[int, int]
Run = tuple[UInt64s, UInt64s, Int64s]
"""Of identities, sorted by the first: both hashes, and the event's time."""

_SEEDS = (0x5DEECE66D, 0xB5026F5AA96619E9)
_NEVER = np.iinfo(np.int64).min


def hashes(identity: pl.DataFrame) -> tuple[UInt64s, UInt64s]:
    """Two independent 64-bit hashes of each row: uint64[n], uint64[n]."""
    first, second = (identity.hash_rows(seed).to_numpy() for seed in _SEEDS)
    return first, second


class Seen:
    """Identities admitted within `within` of the watermark.

    The verdicts do not depend on how the events fall into batches: an event is a duplicate if an
    admitted one has its identity, a time at most `within` away from its own, and that time is not
    more than `within` behind the watermark just before it.
    """

    def __init__(self, within: timedelta) -> None:
        self._within = within // timedelta(microseconds=1)
        self._watermark = int(_NEVER)
        self._runs: list[Run] = []  # sizes fall

    def __len__(self) -> int:
        """How many identities are held."""
        return sum(len(times) for _, _, times in self._runs)

    def admit(self, identity: pl.DataFrame, times: Int64s) -> NDArray[np.bool_]:
        """Which rows are new, bool[n]; these are remembered.

        Args:
            identity: the identity's columns, n rows in the order of the log.
            times: int64[n], the events' times in microseconds since 1970.
        """
        if not len(times):
            return np.zeros(0, bool)
        first, second = hashes(identity)
        order = np.argsort(first, kind="stable")
        ordered = first[order]
        suspect = np.zeros(len(times), bool)
        same = ordered[1:] == ordered[:-1]
        suspect[order[1:][same]] = True
        suspect[order[:-1][same]] = True
        for run, _, _ in self._runs:
            at = np.searchsorted(run, ordered)
            at[at == len(run)] = 0
            suspect[order[run[at] == ordered]] = True
        new = ~suspect
        if suspect.any():
            self._settle(np.flatnonzero(suspect), first, second, times, new)
        self._watermark = max(self._watermark, int(times[new].max(initial=_NEVER)))
        kept = order[new[order]]
        self._remember(first[kept], second[kept], times[kept])
        return new

    def _settle(
        self, suspects: Int64s, first: UInt64s, second: UInt64s, times: Int64s, new: NDArray[np.bool_]
    ) -> None:
        """Decides the rows whose first hash was met before, one by one in their order."""
        known = self._known(first[suspects])
        sure = np.maximum.accumulate(
            np.where(new, times, _NEVER)
        )  # the watermark by rows that are new for sure
        watermark = self._watermark
        for at in suspects.tolist():
            key, time = (int(first[at]), int(second[at])), int(times[at])
            watermark = max(watermark, int(sure[at]))
            oldest = max(time - self._within, watermark - self._within)
            admitted = known.setdefault(key, [])
            if any(oldest <= earlier <= time + self._within for earlier in admitted):
                continue
            new[at] = True
            admitted.append(time)
            watermark = max(watermark, time)

    def _known(self, wanted: UInt64s) -> dict[Hash, list[int]]:
        """The times remembered for these first hashes."""
        known: dict[Hash, list[int]] = {}
        keys = np.unique(wanted)
        for run, second, times in self._runs:
            low, high = np.searchsorted(run, keys, "left"), np.searchsorted(run, keys, "right")
            for begin, end in zip(low[high > low].tolist(), high[high > low].tolist(), strict=True):
                for at in range(begin, end):
                    known.setdefault((int(run[at]), int(second[at])), []).append(int(times[at]))
        return known

    def _remember(self, first: UInt64s, second: UInt64s, times: Int64s) -> None:
        """Adds a sorted run; merges runs so that each is at least twice as long as the next, and forgets."""
        run = (first, second, times)
        while self._runs and len(self._runs[-1][0]) < 2 * len(run[0]):
            run = self._recent(_merged(self._runs.pop(), run))
        if len(run[0]):
            self._runs.append(run)

    def _recent(self, run: Run) -> Run:
        first, second, times = run
        recent = times >= self._watermark - self._within
        return run if recent.all() else (first[recent], second[recent], times[recent])


def _merged(one: Run, other: Run) -> Run:
    """Both in one, sorted. No more is held meanwhile than the two and what they become."""
    from_other = np.searchsorted(one[0], other[0], "right") + np.arange(len(other[0]))
    from_one = np.ones(len(one[0]) + len(other[0]), bool)
    from_one[from_other] = False

    def column(of_one: Any, of_other: Any) -> Any:
        made = np.empty(len(from_one), of_one.dtype)
        made[from_one], made[from_other] = of_one, of_other
        return made

    first, second, times = (column(*pair) for pair in zip(one, other, strict=True))
    return first, second, times
