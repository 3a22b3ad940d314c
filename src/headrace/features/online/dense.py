"""The dense form of the states of a windowed view whose tiles hold numbers alone, and how it is read.

It is four arrays of eight-byte numbers. The arrays of many entities are joined, and the windows of all of them
are computed at once, without a step of Python for each entity and feature. An unsettled event is one more tile
after the settled ones, which begins at its time: it is in a window if its time is.

`lengths` has for each track the number of its tiles, then how many are settled. `begins` has where tiles begin.
`wholes` and `floats` have the parts. All go track after track and part after part. For numbers that are added,
`wholes` has n + 1 prefix sums of n tiles; for exact sums of floats it has where those of each tile are in
`floats`; of other parts the n values and a 0. A state with a value that has no place here keeps its lists
(tiles.Tiles.pack).
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from math import fsum, isinf
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.features.aggregates import PartsReader, TilePart, Track

__all__ = ["DenseStates", "DenseTracks", "DenseWindow", "TrackShape"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_WHOLE, _FLOAT = np.dtype("<i8"), np.dtype("<f8")
_LARGEST = 1 << 42  # of a whole number that is added: those of a million tiles add up within int64


class TrackShape(NamedTuple):
    """The tiles of one column at one hop.

    Attributes:
        column: the index of the column in the view.
        hop: the length of a tile, microseconds.
        longest: how far back a window of these tiles begins, microseconds.
        parts: what a tile holds.
    """

    column: int
    hop: int
    longest: int
    parts: list[TilePart]


class DenseWindow(NamedTuple):
    """The aggregations of one window: for each track, the index of each in the row, and how it is read."""

    window: int
    hop: int
    offset: int
    reads: list[tuple[int, list[tuple[int, PartsReader]]]]


class DenseStates(NamedTuple):
    """The four arrays of a state, as bytes; see the module."""

    lengths: bytes
    begins: bytes
    wholes: bytes
    floats: bytes


class HasArrays(Protocol):
    """A state with these arrays."""

    @property
    def lengths(self) -> bytes: ...
    @property
    def begins(self) -> bytes: ...
    @property
    def wholes(self) -> bytes: ...
    @property
    def floats(self) -> bytes: ...


class _Read(NamedTuple):
    """The aggregations of one window that are read from one track.

    Attributes:
        track: the track.
        parts: the places of the parts that they need (_Part), in the track's order.
        results: the index of each result in the row, its parts' indexes in `parts`, and `PartsReader.combine`.
    """

    track: int
    parts: list[int]
    results: list[tuple[int, tuple[int, ...], Callable[..., Any] | None]]


class DenseTracks:
    """The dense form of states with these tracks.

    Args:
        tracks: the tracks; every part has a form.
        windows: the windows that are read from them.
        nothing: the view's features of no events.
    """

    def __init__(
        self, tracks: Sequence[TrackShape], windows: Sequence[DenseWindow], nothing: Sequence[object]
    ) -> None:
        self._tracks, self._nothing = tracks, nothing
        self._layout = _Layout(tracks)
        places = {part: place for place, part in enumerate(self._layout.names)}
        self._windows: list[tuple[int, int, int, list[_Read]]] = []
        for window, hop, offset, reads in windows:
            dense = []
            for track, readers in reads:
                names = list(dict.fromkeys(name for _, reader in readers for name in reader.parts))
                results = [
                    (index, tuple(names.index(name) for name in reader.parts), reader.combine)
                    for index, reader in readers
                ]
                dense.append(_Read(track, [places[track, name] for name in names], results))
            self._windows.append((window, hop, offset, dense))

    def pack(
        self, times: list[int], values: Sequence[list[Any]], tracks: Sequence[Track]
    ) -> DenseStates | None:
        """The dense form of a state's tracks and unsettled events; None if a value has no place in it."""
        totals, settled, begins = [], [], []
        wholes: list[int] = []
        floats: list[float] = []
        for shape, track in zip(self._tracks, tracks, strict=True):
            column = values[shape.column]
            events = [(at, value) for at, value in zip(times, column, strict=True) if value is not None]
            if events and track[0] and track[0][-1] > events[0][0]:
                return None  # the clock was set back
            settled.append(len(track[0]))
            totals.append(len(track[0]) + len(events))
            begins += track[0]
            begins += [time for time, _ in events]
            for part, tiles in zip(shape.parts, track[1:], strict=True):
                unsettled = [part.make([time], [value]) for time, value in events]
                if not _add_part(part.form, tiles + unsettled, wholes, floats):
                    return None
        return DenseStates(
            struct.pack(f"<{2 * len(totals)}q", *totals, *settled),
            struct.pack(f"<{len(begins)}q", *begins),
            struct.pack(f"<{len(wholes)}q", *wholes),
            struct.pack(f"<{len(floats)}d", *floats),
        )

    def unpack(self, state: HasArrays) -> list[Track]:
        """The tracks of settled events of a state that `pack` packed."""
        lengths, begins, wholes, floats = _unpack(state)
        tracks: list[Track] = []
        begin = whole = place = 0
        for index, shape in enumerate(self._tracks):
            total, settled = lengths[index], lengths[index + len(self._tracks)]
            track: Track = [[*begins[begin : begin + settled]]]
            begin += total
            for part in shape.parts:
                if part.form in ("float_max", "float_min"):
                    track.append([*floats[place : place + settled]])
                    place += total + 1
                    continue
                bounds = pairwise(wholes[whole : whole + settled + 1])
                if part.form == "total":
                    track.append([[*floats[low:high]] for low, high in bounds])
                    place = wholes[whole + total]
                elif part.form == "sum":
                    track.append([high - low for low, high in bounds])
                else:
                    track.append([*wholes[whole : whole + settled]])
                whole += total + 1
            tracks.append(track)
        return tracks

    def values_of(self, state: HasArrays, at: int) -> list[object]:
        """As `values`, of one entity, for which arrays would take longer."""
        row = [*self._nothing]
        lengths, begins, wholes, floats = _unpack(state)
        tracks, parts = self._layout.find(lengths, wholes)
        for window, hop, offset, reads in self._windows:
            first = (at - offset - window) // hop * hop
            for track, places, results in reads:
                begin, end = tracks[track]
                low = bisect_left(begins, first, begin, end)
                if offset:
                    end = bisect_left(begins, (at - offset) // hop * hop, low, end)
                elif low < end and begins[end - 1] >= at:  # a later event; settled tiles are before any moment
                    settled = begin + lengths[track + len(self._tracks)]
                    end = max(settled, bisect_left(begins, at, begin, end))
                if low >= end:
                    continue
                low, high = low - begin, end - begin
                merged = []
                for place in places:
                    form, start = parts[place]
                    if form == "sum":
                        merged.append(wholes[start + high] - wholes[start + low])
                    elif form == "total":
                        merged.append(_check(fsum(floats[wholes[start + low] : wholes[start + high]])))
                    else:
                        numbers = floats if form.startswith("float") else wholes
                        choose = max if form.endswith("max") else min
                        merged.append(choose(numbers[start + low : start + high]))
                for index, needed, combine in results:
                    row[index] = (
                        merged[needed[0]] if combine is None else combine(*[merged[part] for part in needed])
                    )
        return row

    def values(self, states: Sequence[HasArrays], at: int) -> list[list[object]]:
        """The view's features of each of these entities at `at` (microseconds), in order.

        Raises:
            OverflowError: a sum is infinite: it, and what is computed from it, must be read from the tracks.
        """
        batch = _Batch(states, self._layout)
        columns: list[list[Any]] = [[]] * len(self._nothing)
        begins = [(at - offset - window) // hop * hop for window, hop, offset, _ in self._windows]
        ends = [(at - offset) // hop * hop if offset else at for _, hop, offset, _ in self._windows]
        moments = list(dict.fromkeys((*begins, *ends)))
        counts = dict(zip(moments, batch.count_before(moments), strict=True))
        for (_, _, offset, reads), begin, end in zip(self._windows, begins, ends, strict=True):
            # Without an offset, a settled tile is before the end, whichever the moment.
            high = counts[end] if offset else np.maximum(counts[end], batch.settled)
            ranges = _Ranges(batch, counts[begin], np.maximum(counts[begin], high))
            for track, places, results in reads:
                present = ranges.is_present[:, track].tolist()
                merged = [ranges.merge(place) for place in places]
                for index, needed, combine in results:
                    parts = [merged[part] for part in needed]
                    columns[index] = _combine(parts, combine, present, self._nothing[index])
        return [*map(list, zip(*columns, strict=True))]


def _combine(
    parts: list[list[Any]], combine: Callable[..., Any] | None, present: list[bool], nothing: object
) -> list[Any]:
    """The result of each entity that is present, and `nothing` of the others."""
    if all(present):
        return parts[0] if combine is None else [*map(combine, *parts)]
    if combine is None:
        return [value if is_present else nothing for value, is_present in zip(parts[0], present, strict=True)]
    rows = zip(*parts, strict=True)
    return [combine(*row) if is_present else nothing for row, is_present in zip(rows, present, strict=True)]


def _check(total: float) -> float:
    if isinf(total):
        raise OverflowError
    return total


def _add_part(form: str | None, tiles: list[Any], wholes: list[int], floats: list[float]) -> bool:
    """Appends a part of tiles; False if a value has no place."""
    if form == "sum":
        if not all(type(number) is int and -_LARGEST < number < _LARGEST for number in tiles):
            return False
        wholes += accumulate(tiles, initial=0)
    elif form == "total":
        wholes.append(len(floats))
        for total in tiles:
            if total and type(total[0]) is str:
                return False
            floats += total
            wholes.append(len(floats))
    elif form in ("float_max", "float_min"):
        floats += [*tiles, 0.0]
    else:
        wholes += [*tiles, 0]
    return True


def _unpack(state: HasArrays) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[float, ...]]:
    lengths, begins, wholes, floats = state.lengths, state.begins, state.wholes, state.floats
    return (
        struct.unpack(f"<{len(lengths) // 8}q", lengths),
        struct.unpack(f"<{len(begins) // 8}q", begins),
        struct.unpack(f"<{len(wholes) // 8}q", wholes),
        struct.unpack(f"<{len(floats) // 8}d", floats),
    )


class _Layout:
    """Where the parts are in the arrays.

    Attributes:
        tracks: the number of tracks.
        names: the track and the name of each part, in order.
        forms: the form of each part.
        part_tracks: the track of each part.
        is_whole: whether `wholes` has the part.
    """

    def __init__(self, tracks: Sequence[TrackShape]) -> None:
        self.tracks = len(tracks)
        self.names = [(track, part.name) for track, shape in enumerate(tracks) for part in shape.parts]
        self.forms = [str(part.form) for shape in tracks for part in shape.parts]
        self.part_tracks = [track for track, _ in self.names]
        self.is_whole = [not form.startswith("float") for form in self.forms]
        self._shapes = [[str(part.form) for part in shape.parts] for shape in tracks]

    def find(
        self, lengths: Sequence[int], wholes: Sequence[int]
    ) -> tuple[list[tuple[int, int]], list[tuple[str, int]]]:
        """For one state, the first tile of each track and the end of its tiles; the form and the start of each
        part."""
        tracks, parts = [], []
        begin = whole = place = 0
        for total, forms in zip(lengths, self._shapes, strict=False):
            tracks.append((begin, begin + total))
            begin += total
            for form in forms:
                if form.startswith("float"):
                    parts.append((form, place))
                    place += total + 1
                    continue
                parts.append((form, whole))
                whole += total + 1
                if form == "total":
                    place = wholes[whole - 1]
        return tracks, parts


class _Batch:
    """The joined states of n entities.

    Attributes:
        settled: the number of settled tiles, [n, tracks].
        starts: where each part begins in `wholes` or `floats`, [n, parts].
        float_bases: where the floats of each entity begin, [n].
    """

    def __init__(self, states: Sequence[HasArrays], layout: _Layout) -> None:
        self.layout = layout
        lengths = np.frombuffer(b"".join([state.lengths for state in states]), _WHOLE)
        counts = lengths.reshape(len(states), 2, layout.tracks)
        self._totals, self.settled = counts[:, 0], counts[:, 1]
        self._begins: Ints = np.frombuffer(b"".join([state.begins for state in states]) + bytes(8), _WHOLE)
        self.wholes: Ints = np.frombuffer(b"".join([state.wholes for state in states]), _WHOLE)
        floats = [state.floats for state in states]
        self.floats: Floats = np.frombuffer(b"".join(floats), _FLOAT)
        sizes = np.array([len(part) for part in floats]) // 8
        self.float_bases: Ints = np.cumsum(sizes) - sizes
        self.starts = self._find_starts(self._totals[:, layout.part_tracks] + 1)

    def _find_starts(self, sizes: Ints) -> Ints:
        layout, is_whole = self.layout, np.array(self.layout.is_whole)
        starts = np.empty_like(sizes)
        starts[:, is_whole] = _starts_of(sizes[:, is_whole])
        if not is_whole.all():
            place = self.float_bases
            for part, form in enumerate(layout.forms):
                if form == "total":
                    place = self.float_bases + self.wholes[starts[:, part] + sizes[:, part] - 1]
                elif form.startswith("float"):
                    starts[:, part] = place
                    place = place + sizes[:, part]
        return starts

    def count_before(self, moments: list[int]) -> Ints:
        """How many tiles of each track begin before each of m moments, [m, n, tracks]."""
        before = (self._begins < np.array(moments)[:, np.newaxis]).astype(np.int64)
        starts = _starts_of(self._totals)
        counts: Ints = np.add.reduceat(before, starts.ravel(), axis=1).reshape(-1, *starts.shape)
        last = starts[-1, -1] + self._totals[-1, -1]  # the value after the last, which reduceat added to it
        counts[:, -1, -1] -= before[:, last]
        return np.where(self._totals > 0, counts, 0)  # reduceat gives one value for an empty range

    @cached_property
    def float_list(self) -> list[float]:
        """The floats."""
        return self.floats.tolist()


class _Ranges:
    """The tiles of n entities in one window.

    Attributes:
        is_present: whether there is one, [n, tracks].
    """

    def __init__(self, batch: _Batch, low: Ints, high: Ints) -> None:
        self._batch = batch
        self.is_present: NDArray[np.bool_] = high > low
        tracks = batch.layout.part_tracks
        self._low, self._high = batch.starts + low[:, tracks], batch.starts + high[:, tracks]

    def merge(self, place: int) -> list[Any]:
        """The merged part of each entity; anything for one without a tile.

        Raises:
            OverflowError: a sum is infinite.
        """
        batch, low, high = self._batch, self._low[:, place], self._high[:, place]
        form = batch.layout.forms[place]
        if form == "sum":
            sums: list[int] = (batch.wholes[high] - batch.wholes[low]).tolist()
            return sums
        if form == "total":
            firsts, ends = batch.float_bases + batch.wholes[low], batch.float_bases + batch.wholes[high]
            floats = batch.float_list
            totals = [
                fsum(floats[first:end]) for first, end in zip(firsts.tolist(), ends.tolist(), strict=True)
            ]
            _check(max(totals, key=abs))
            return totals
        values: NDArray[Any] = batch.floats if form.startswith("float") else batch.wholes
        choose: Callable[..., Any] = np.maximum.reduceat if form.endswith("max") else np.minimum.reduceat
        bounds = np.empty(2 * len(low), dtype=np.int64)
        bounds[::2], bounds[1::2] = low, high
        chosen: list[Any] = choose(values, bounds)[::2].tolist()
        return chosen


def _starts_of(lengths: Ints) -> Ints:
    """Where each of the arrays of these lengths begins if they are joined in this order."""
    flat = lengths.ravel()
    starts: Ints = (np.cumsum(flat) - flat).reshape(lengths.shape)
    return starts
