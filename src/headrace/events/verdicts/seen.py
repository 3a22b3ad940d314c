"""Seen: which identities have been admitted lately, so that the same event again is refused.

An identity is kept as 108 bits of hash, its log partition and its event's time: 24 bytes. Among a billion
different identities at once, two share a hash with a chance of about 1 in 10^15. Only those are kept whose
time lies at most `dedup_within` behind the watermark of their log partition (verdicts.watermarks), so that
what is held follows the rate, not the age, of the topic, and one log partition that is read ahead makes none of
another forgotten. Where they are many they lie in files without a name, which are mapped: the machine
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

from headrace.events.verdicts.watermarks import NEVER, Watermarks
from headrace.kernel.errors import Unavailable
from headrace.kernel.private import make_private

__all__ = ["Seen"]

Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]
Hash = tuple[int, int]
Run = tuple[UInt64s, UInt64s, Int64s]
"""Of identities, sorted by the first: a hash; another, whose last bits are the scope; the event's time."""

FEW = 262_144  # identities: a run of more than these lies in a file, and no more are merged in one go
_SEEDS = (0x5DEECE66D, 0xB5026F5AA96619E9)
_SCOPE = np.uint64((1 << 20) - 1)  # no topic has more log partitions


class Seen:
    """Identities admitted that are not forgotten.

    An event is a duplicate if an admitted one of its scope has its identity, a time at most `dedup_within` away
    from its own, and that time is not more than `dedup_within` behind the scope's watermark just before it. The
    scope is its log partition; where the watermarks are shared, the topic.

    Args:
        within: how long.
        folder: where the files of long runs are made; they have no name, and go with the process.
        watermarks: the topic's; `admit` moves them.
    """

    def __init__(self, within: timedelta, folder: Path, watermarks: Watermarks) -> None:
        self._within = within // timedelta(microseconds=1)
        self._folder = folder
        self._watermarks = watermarks
        self._runs: list[Run] = []  # sizes fall

    def __len__(self) -> int:
        """How many identities are held."""
        return sum(len(times) for _, _, times in self._runs)

    def admit(
        self, identity: pl.DataFrame, times: Int64s, arrived: Int64s, partitions: NDArray[np.int32]
    ) -> NDArray[np.bool_]:
        """Which rows are new, bool[n]; these are remembered.

        Args:
            identity: the identity's columns, n rows in the order of their log partitions.
            times: int64[n], the events' times in microseconds since 1970.
            arrived: int64[n], when they arrived.
            partitions: int32[n], their log partitions.

        Raises:
            Unavailable: there is no room on the disk. What is held now is not to be gone on with.
        """
        if not len(times):
            return np.zeros(0, bool)
        scopes = np.zeros_like(partitions) if self._watermarks.shared else partitions
        first, second = _hashes_of(identity, scopes)
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
        capped = np.minimum(times, arrived)
        if suspect.any():
            known = self._known(first[suspect])
            for scope in np.unique(scopes[suspect]).tolist():
                rows = np.flatnonzero(scopes == scope)
                keys = (first[rows], second[rows])
                new[rows] = self._settle(scope, suspect[rows], keys, times[rows], capped[rows], known)
        self._watermarks.take(partitions[new], times[new], arrived[new])
        kept = order[new[order]]
        self._add((first[kept], second[kept], times[kept]))
        return new

    def remember(self, identity: pl.DataFrame, times: Int64s, partitions: NDArray[np.int32]) -> None:
        """Takes rows as admitted that were found new before, in whatever order. The watermarks stay.

        Args:
            identity, times, partitions: as for `admit`.

        Raises:
            Unavailable: as for `admit`.
        """
        scopes = np.zeros_like(partitions) if self._watermarks.shared else partitions
        first, second = _hashes_of(identity, scopes)
        order = np.argsort(first, kind="stable")
        self._add((first[order], second[order], times[order]))

    def _settle(
        self,
        scope: int,
        suspect: NDArray[np.bool_],
        keys: tuple[UInt64s, UInt64s],
        times: Int64s,
        capped: Int64s,
        known: dict[Hash, list[int]],
    ) -> NDArray[np.bool_]:
        """Which rows of one scope are new: those whose first hash was met before are decided one by one in
        their order.

        Args:
            suspect: bool[n], which those are.
            keys, times: uint64[n] twice, and int64[n].
            capped: int64[n], what the rows move the watermark to.
            known: the times remembered by key; those of new rows are added.
        """
        new = ~suspect
        watermark, moves = self._watermarks.mark(scope), not self._watermarks.shared
        # The watermark by rows that are new for sure.
        sure = np.maximum.accumulate(np.where(new, capped, NEVER))
        for at in np.flatnonzero(suspect).tolist():
            key, time = (int(keys[0][at]), int(keys[1][at])), int(times[at])
            if moves:
                watermark = max(watermark, int(sure[at]))
            oldest = max(time, watermark) - self._within
            admitted = known.setdefault(key, [])
            if any(oldest <= earlier <= time + self._within for earlier in admitted):
                continue
            new[at] = True
            admitted.append(time)
            if moves:
                watermark = max(watermark, int(capped[at]))
        return new

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
        """Both in one, sorted, but for what lies more than `dedup_within` behind its watermark."""
        most = len(one[0]) + len(other[0])
        pieces = (self._recent(_sorted(*pair)) for pair in _side_by_side(one, other))
        return next(pieces) if most <= FEW else self._stored(pieces, most)

    def _recent(self, run: Run) -> Run:
        first, second, times = run
        scopes = (second & _SCOPE).astype(np.int64)
        marks = [self._watermarks.mark(scope) for scope in range(int(scopes.max(initial=0)) + 1)]
        oldest = np.array([max(NEVER, mark - self._within) for mark in marks])
        recent = times >= oldest[scopes]
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


def _hashes_of(identity: pl.DataFrame, scopes: NDArray[np.int32]) -> tuple[UInt64s, UInt64s]:
    """Two independent hashes of each row, uint64[n] each; the last bits of the second are the row's scope."""
    first, second = (identity.hash_rows(seed).to_numpy() for seed in _SEEDS)
    return first, (second & ~_SCOPE) | scopes.astype(np.uint64)


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
