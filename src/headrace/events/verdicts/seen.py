"""Seen: which identities have been admitted lately, so that the same event again is refused.

An identity is kept as 128 bits of hash with its event's time: 24 bytes. Among a billion different
identities at once, two share a hash with a chance of about 1 in 10^21. Only those within `within` of
the watermark (the latest event time admitted) are kept, so that what is held follows the rate, not the
age, of the topic. Where they are many they lie in files without a name, which are mapped: the machine
keeps in memory what is used and it has room for. Nothing of that outlives the process: it is read back from the
topic's table at start.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.kernel.errors import Unavailable
from headrace.kernel.private import make_private

__all__ = ["Seen", "hashes"]

Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]
Hash = tuple[int, int]
Run = tuple[UInt64s, UInt64s, Int64s]
"""Of identities, sorted by the first: both hashes, and the event's time."""

FEW = 262_144  # identities: a run of more than these lies in a file, and no more are merged in one go
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

    Args:
        within: how long.
        folder: where the files of long runs are made; they have no name, and go with the process.
    """

    def __init__(self, within: timedelta, folder: Path) -> None:
        self._within = within // timedelta(microseconds=1)
        self._folder = folder
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

        Raises:
            Unavailable: there is no room on the disk. What is held now is not to be gone on with.
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
        self._add((first[kept], second[kept], times[kept]))
        return new

    def remember(self, identity: pl.DataFrame, times: Int64s) -> None:
        """Takes rows as admitted that were found new before, in whatever order.

        Args:
            identity: as for `admit`.
            times: as for `admit`.

        Raises:
            Unavailable: as for `admit`.
        """
        first, second = hashes(identity)
        order = np.argsort(first, kind="stable")
        self._watermark = max(self._watermark, int(times.max(initial=_NEVER)))
        self._add((first[order], second[order], times[order]))

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

    def _add(self, run: Run) -> None:
        """Adds a sorted run; merges runs so that each is at least twice as long as the next, and forgets."""
        while self._runs and len(self._runs[-1][0]) < 2 * len(run[0]):
            run = self._merged(self._runs.pop(), run)
        if len(run[0]):
            self._runs.append(run)

    def _merged(self, one: Run, other: Run) -> Run:
        """Both in one, sorted, but for what lies more than `within` behind the watermark."""
        most = len(one[0]) + len(other[0])
        pieces = (self._recent(_sorted(*pair)) for pair in _side_by_side(one, other))
        return next(pieces) if most <= FEW else self._stored(pieces, most)

    def _recent(self, run: Run) -> Run:
        first, second, times = run
        recent = times >= self._watermark - self._within
        return run if recent.all() else (first[recent], second[recent], times[recent])

    def _stored(self, pieces: Iterator[Run], most: int) -> Run:
        """The pieces, of so many identities at most, as one run that lies in a file."""
        end = 0
        try:
            make_private(self._folder)
            with tempfile.TemporaryFile(dir=self._folder) as file:
                for piece in pieces:
                    for number, column in enumerate(piece):
                        file.seek(8 * (number * most + end))
                        file.write(column.data)
                    end += len(piece[0])
                file.truncate(24 * most)
                columns = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint64)
        except OSError as error:
            raise Unavailable(
                f"the identities seen lately cannot be kept: {error.strerror}",
                where=str(self._folder),
                remedy="See that there is room on the disk, and that this user may write there.",
            ) from error
        first, second, times = columns.reshape(3, most)
        return first[:end], second[:end], times[:end].view(np.int64)


def _side_by_side(one: Run, other: Run) -> Iterator[tuple[Run, Run]]:
    """Pieces of both, at most some FEW in length; all hashes of a piece come before all of the next."""
    longer, shorter = (one, other) if len(one[0]) >= len(other[0]) else (other, one)
    cuts = range(0, len(longer[0]), FEW)
    starts = [0, *np.searchsorted(shorter[0], longer[0][cuts[1:]], "left").tolist()]
    ends = zip([*cuts[1:], len(longer[0])], [*starts[1:], len(shorter[0])], strict=True)
    for cut, start, (cut_end, end) in zip(cuts, starts, ends, strict=True):
        yield _part(longer, cut, cut_end), _part(shorter, start, end)


def _sorted(one: Run, other: Run) -> Run:
    first, second, times = (np.concatenate(pair) for pair in zip(one, other, strict=True))
    order = np.argsort(first, kind="stable")  # of two sorted runs: it merges them
    return first[order], second[order], times[order]


def _part(run: Run, begin: int, end: int) -> Run:
    first, second, times = run
    return first[begin:end], second[begin:end], times[begin:end]
