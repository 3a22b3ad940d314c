"""The recently admitted identities, by which a repeated event is refused as a duplicate.

An identity is stored as 108 bits of hash, its log partition and its event's time: 24 bytes. Among a billion
different identities at once, two share a hash with a chance of about 1 in 10^15. An identity is forgotten once
its time lies more than `dedup_within` behind the watermark of its log partition (verdicts.watermarks). So the
size follows the rate of the topic, not its age, and reading one log partition ahead forgets none of another.
Large runs lie in unnamed files that are mapped into memory, so the operating system keeps in memory what is
used and fits. Nothing of this survives the process: at start the identities are read from the topic's table.
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

__all__ = ["RecentIdentities"]

Int64s = NDArray[np.int64]
UInt64s = NDArray[np.uint64]
Hash = tuple[int, int]
Run = tuple[UInt64s, UInt64s, Int64s]
"""Identities, sorted by the first hash: two hashes, the second with the scope in its last bits; the times."""

MAX_IN_MEMORY = 262_144  # identities: a longer run lies in a file, and is merged in pieces of so many
_SEEDS = (0x5DEECE66D, 0xB5026F5AA96619E9)
_SCOPE = np.uint64((1 << 20) - 1)  # no topic has more log partitions


class RecentIdentities:
    """The admitted identities that are not forgotten yet.

    An event is a duplicate if an admitted one of its scope has its identity, a time at most `dedup_within` away
    from its own, and that time is not more than `dedup_within` behind the scope's watermark just before it. The
    scope is the log partition, or the whole topic if the watermarks are shared.

    Args:
        within: the contract's `dedup_within`.
        folder: where long runs are written; the files have no name and vanish with the process.
        watermarks: the watermarks of the topic; `admit` moves them.
    """

    def __init__(self, within: timedelta, folder: Path, watermarks: Watermarks) -> None:
        self._within = within // timedelta(microseconds=1)
        self._folder = folder
        self._watermarks = watermarks
        self._runs: list[Run] = []  # from the longest to the shortest

    def __len__(self) -> int:
        """The number of identities."""
        return sum(len(times) for _, _, times in self._runs)

    def admit(
        self, identity: pl.DataFrame, times: Int64s, arrived: Int64s, partitions: NDArray[np.int32]
    ) -> NDArray[np.bool_]:
        """Admit the rows that are not duplicates, and remember them.

        Args:
            identity: the identity's columns, n rows in the order of their log partitions.
            times: int64[n], the events' times in microseconds since 1970.
            arrived: int64[n], when they arrived.
            partitions: int32[n], their log partitions.

        Returns:
            bool[n], whether each row is admitted.

        Raises:
            Unavailable: the disk is full. This object must not be used any further.
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
            known = self._find_times(first[suspect])
            for scope in np.unique(scopes[suspect]).tolist():
                rows = np.flatnonzero(scopes == scope)
                keys = (first[rows], second[rows])
                new[rows] = self._admit_suspects(scope, suspect[rows], keys, times[rows], capped[rows], known)
        self._watermarks.record(partitions[new], times[new], arrived[new])
        admitted = order[new[order]]
        self._add((first[admitted], second[admitted], times[admitted]))
        return new

    def remember(self, identity: pl.DataFrame, times: Int64s, partitions: NDArray[np.int32]) -> None:
        """Remember rows that were admitted before, in any order. The watermarks do not move.

        Args:
            identity, times, partitions: as for `admit`.

        Raises:
            Unavailable: as for `admit`.
        """
        scopes = np.zeros_like(partitions) if self._watermarks.shared else partitions
        first, second = _hashes_of(identity, scopes)
        order = np.argsort(first, kind="stable")
        self._add((first[order], second[order], times[order]))

    def _admit_suspects(
        self,
        scope: int,
        suspect: NDArray[np.bool_],
        keys: tuple[UInt64s, UInt64s],
        times: Int64s,
        capped: Int64s,
        known: dict[Hash, list[int]],
    ) -> NDArray[np.bool_]:
        """Decide, in order, which rows of one scope whose first hash is known are admitted.

        Args:
            scope: the scope of the rows.
            suspect: bool[n], whether the first hash of a row is known.
            keys, times: the rows' hashes, uint64[n] each, and times, int64[n].
            capped: int64[n], the watermarks to which the rows move their scope's.
            known: hashes → the times remembered for them; those of admitted rows are added.

        Returns:
            bool[n], whether each row is admitted.
        """
        new = ~suspect
        watermark, moves = self._watermarks.mark(scope), not self._watermarks.shared
        # The watermark as moved by the rows that are certainly new.
        certain = np.maximum.accumulate(np.where(new, capped, NEVER))
        for at in np.flatnonzero(suspect).tolist():
            key, time = (int(keys[0][at]), int(keys[1][at])), int(times[at])
            if moves:
                watermark = max(watermark, int(certain[at]))
            oldest = max(time, watermark) - self._within
            admitted = known.setdefault(key, [])
            if any(oldest <= earlier <= time + self._within for earlier in admitted):
                continue
            new[at] = True
            admitted.append(time)
            if moves:
                watermark = max(watermark, int(capped[at]))
        return new

    def _find_times(self, hashes: UInt64s) -> dict[Hash, list[int]]:
        """Find the times remembered for first hashes."""
        known: dict[Hash, list[int]] = {}
        keys = np.unique(hashes)
        for run, second, times in self._runs:
            low, high = np.searchsorted(run, keys, "left"), np.searchsorted(run, keys, "right")
            for begin, end in zip(low[high > low].tolist(), high[high > low].tolist(), strict=True):
                for at in range(begin, end):
                    known.setdefault((int(run[at]), int(second[at])), []).append(int(times[at]))
        return known

    def _add(self, run: Run) -> None:
        """Add a sorted run. Runs are merged so that each is at least twice as long as the next."""
        while self._runs and len(self._runs[-1][0]) < 2 * len(run[0]):
            run = self._merge(self._runs.pop(), run)
        if len(run[0]):
            self._runs.append(run)

    def _merge(self, left: Run, right: Run) -> Run:
        """Merge two runs into one, without the identities that are forgotten."""
        most = len(left[0]) + len(right[0])
        pieces = (self._drop_forgotten(_merge_sorted(*pair)) for pair in _pair_pieces(left, right))
        return next(pieces) if most <= MAX_IN_MEMORY else self._write(pieces, most)

    def _drop_forgotten(self, run: Run) -> Run:
        first, second, times = run
        scopes = (second & _SCOPE).astype(np.int64)
        marks = [self._watermarks.mark(scope) for scope in range(int(scopes.max(initial=0)) + 1)]
        oldest = np.array([max(NEVER, mark - self._within) for mark in marks])
        recent = times >= oldest[scopes]
        return run if recent.all() else (first[recent], second[recent], times[recent])

    def _write(self, pieces: Iterator[Run], most: int) -> Run:
        """Write the pieces, at most `most` identities, as one run in a file."""
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
                f"the recent identities cannot be written: {error.strerror}",
                where=str(self._folder),
                remedy="Make room on the disk, and let this user write there.",
            ) from error
        first, second, times = columns.reshape(3, most)
        return first[:end], second[:end], times[:end].view(np.int64)


def _hashes_of(identity: pl.DataFrame, scopes: NDArray[np.int32]) -> tuple[UInt64s, UInt64s]:
    """Two independent hashes of each row, uint64[n] each; the last bits of the second are the row's scope."""
    first, second = (identity.hash_rows(seed).to_numpy() for seed in _SEEDS)
    return first, (second & ~_SCOPE) | scopes.astype(np.uint64)


def _pair_pieces(left: Run, right: Run) -> Iterator[tuple[Run, Run]]:
    """Cut two runs into pairs of pieces: all hashes of a pair come before all of the next.

    A piece of the longer run has at most MAX_IN_MEMORY identities.
    """
    longer, shorter = (left, right) if len(left[0]) >= len(right[0]) else (right, left)
    cuts = range(0, len(longer[0]), MAX_IN_MEMORY)
    starts = [0, *np.searchsorted(shorter[0], longer[0][cuts[1:]], "left").tolist()]
    ends = zip([*cuts[1:], len(longer[0])], [*starts[1:], len(shorter[0])], strict=True)
    for cut, start, (cut_end, end) in zip(cuts, starts, ends, strict=True):
        yield _slice(longer, cut, cut_end), _slice(shorter, start, end)


def _merge_sorted(left: Run, right: Run) -> Run:
    first, second, times = (np.concatenate(pair) for pair in zip(left, right, strict=True))
    order = np.argsort(first, kind="stable")  # a stable sort merges two sorted runs
    return first[order], second[order], times[order]


def _slice(run: Run, begin: int, end: int) -> Run:
    first, second, times = run
    return first[begin:end], second[begin:end], times[begin:end]
