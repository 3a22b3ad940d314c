"""The state of one entity in a windowed view: tiles of settled events, and the events that are not.

An event is settled once the wall clock is past its time by `SETTLED`: no lookup that is under way can
have a moment before it any more. Settled events are added into tiles, one for each hop that has any;
the others are kept as they came, for a lookup sees only those before its moment. What no window can
reach any more is dropped, by the wall clock and never by the time of events.

A track is the tiles of one column at one hop: parallel lists, the tiles' begins first, then one list
for each part that the view's aggregations need of it. Everything here is plain lists, packed as
MessagePack, and gives the same numbers as the offline kernel (windows.py), to the bit.

An entity whose state cannot be made or read is broken: a text that says why stands in the place of its
state, for a state that lacks events would be served as if it were whole.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from headrace.features.online.parts import Part, Reader, Track, parts_of, reader_of
from headrace.features.plan import Aggregation, WindowedView
from headrace.kernel.errors import Unavailable

__all__ = ["BROKEN", "SETTLED", "State", "Tiles", "pack", "unpack"]

_logger = logging.getLogger(__name__)

SETTLED = 5 * 60 * 1_000_000
"""Microseconds after its time at which an event is settled."""

BROKEN = b"\x91"
"""The first byte of what stands in the place of a broken entity's state: a list of one text."""


class State(NamedTuple):
    """One entity.

    Attributes:
        offsets: log partition → the first offset that is not in it.
        times: the unsettled events' times, in order.
        values: for each column of the view, their values; null does not count.
        tracks: in the order of `Tiles.tracks`.
    """

    offsets: dict[int, int]
    times: list[int]
    values: list[list[Any]]
    tracks: list[Track]


class _Track(NamedTuple):
    column: int
    hop: int
    longest: int
    parts: list[Part]


class _Window(NamedTuple):
    """The aggregations of one window, by the track they are read from."""

    window: int
    hop: int
    reads: list[tuple[int, int, list[tuple[int, Reader]]]]  # track, column, (place in the row, reader)


class Tiles:
    """How the entities of one windowed view are kept."""

    def __init__(self, view: WindowedView) -> None:
        self.view = view
        self._columns = {one.name: at for at, one in enumerate(view.columns)}
        dtypes = {one.name: one.dtype for one in view.columns}
        wanted: dict[tuple[str, int], list[Aggregation]] = {}
        for one in view.aggregations:
            wanted.setdefault((one.column, one.hop), []).append(one)
        self.tracks: list[_Track] = []
        places: dict[str, tuple[int, dict[str, int]]] = {}
        for (column, hop), users in wanted.items():
            kept = parts_of(users, dtypes[column])
            longest = max(one.window for one in users)
            for one in users:
                places[one.name] = len(self.tracks), {name: at + 1 for at, name in enumerate(kept)}
            self.tracks.append(_Track(self._columns[column], hop, longest, list(kept.values())))
        self._windows: list[_Window] = []
        windows: dict[tuple[int, int], dict[int, list[tuple[int, Reader]]]] = {}
        for place, one in enumerate(view.aggregations):
            track_at, kept_at = places[one.name]
            reader = reader_of(one, kept_at, dtypes[one.column])
            windows.setdefault((one.window, one.hop), {}).setdefault(track_at, []).append((place, reader))
        for (window, hop), by_track in windows.items():
            reads = [(track_at, self.tracks[track_at].column, found) for track_at, found in by_track.items()]
            self._windows.append(_Window(window, hop, reads))

    def empty(self) -> State:
        """An entity of which nothing is known."""
        tracks: list[Track] = [[[] for _ in range(len(track.parts) + 1)] for track in self.tracks]
        return State({}, [], [[] for _ in self._columns], tracks)

    def add(
        self, state: State, times: list[int], values: Sequence[list[Any]], offsets: dict[int, int], now: int
    ) -> State:
        """The state with more events, which are in the order of their times; `state` is used up.

        Args:
            state: what is known so far.
            times: of the events, microseconds.
            values: a list for each of the view's columns, as `counted` gives them.
            offsets: where the log stands after them.
            now: the wall clock.
        """
        if state.times:
            times, values = _merged(state.times, state.values, times, values)
        settled = bisect_left(times, now - SETTLED)
        if settled:
            for track, shape in zip(state.tracks, self.tracks, strict=True):
                _settle(track, shape, times[:settled], values[shape.column][:settled])
        for track, shape in zip(state.tracks, self.tracks, strict=True):
            gone = bisect_left(track[0], (now - SETTLED - shape.longest) // shape.hop * shape.hop)
            if gone:
                for part in track:
                    del part[:gone]
        return State(offsets, times[settled:], [column[settled:] for column in values], state.tracks)

    def grow(
        self,
        packed: bytes | None,
        key: tuple[Any, ...],
        events: tuple[list[int], Sequence[list[Any]]],
        offsets: dict[int, int],
        now: int,
    ) -> bytes:
        """`add`, from a packed state (None: of an entity of which nothing is known) to a packed one.

        Never raises because of one entity: where its state cannot be made, the entity is broken.
        """
        if packed is not None and packed[:1] == BROKEN:
            return packed
        try:
            state = self.empty() if packed is None else unpack(packed)
            return pack(self.add(state, *events, offsets, now))
        except Exception as error:
            reason = f"view {self.view.name!r}, entity {key}: {type(error).__name__}: {error}"
            _logger.exception("an entity's online state cannot take its events, and is broken: %s", reason)
            return _encode([reason])

    def values(self, state: State, at: int) -> list[object]:
        """The view's features at `at`, in their order."""
        _, times, raw, tracks = state
        row: list[object] = [None] * len(self.view.aggregations)
        low = high = 0
        for window, hop, reads in self._windows:
            begin = (at - window) // hop * hop
            if times:
                low, high = bisect_left(times, begin), bisect_left(times, at)
            seen = times[low:high]
            for track_at, column, readers in reads:
                track = tracks[track_at]
                first = bisect_left(track[0], begin)
                values = raw[column][low:high] if seen else seen
                for place, read in readers:
                    row[place] = read(track, first, seen, values)
        return row


def pack(state: State) -> bytes:
    """The state as bytes."""
    return _encode(state)


def unpack(packed: bytes) -> State:
    """The state that `pack` wrote.

    Raises:
        Unavailable: the entity is broken.
    """
    try:
        return _decode(packed)
    except msgspec.DecodeError as error:
        reason = _decode_any(packed)[0] if packed[:1] == BROKEN else error
        raise Unavailable(
            f"an entity's online state is broken: {reason}",
            remedy="A headrace build that brings the online state up to date makes the view's state anew.",
        ) from error


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(State).decode
_decode_any = msgspec.msgpack.Decoder().decode


def _merged(
    times: list[int], values: Sequence[list[Any]], more: list[int], more_values: Sequence[list[Any]]
) -> tuple[list[int], Sequence[list[Any]]]:
    """Two runs of events as one, in the order of their times."""
    both = times + more
    if not more or times[-1] <= more[0]:
        return both, [old + new for old, new in zip(values, more_values, strict=True)]
    order = sorted(range(len(both)), key=both.__getitem__)
    columns = [old + new for old, new in zip(values, more_values, strict=True)]
    return [both[i] for i in order], [[column[i] for i in order] for column in columns]


def _settle(track: Track, shape: _Track, times: list[int], values: list[Any]) -> None:
    """Adds events, in the order of their times, to the tiles they fall in."""
    begins, hop, count = track[0], shape.hop, len(times)
    end = 0
    while end < count:
        first = end
        begin = times[first] // hop * hop
        end = bisect_left(times, begin + hop, first)
        inside = [value for value in values[first:end] if value is not None]
        if not inside:
            continue
        moments = times[first:end]
        if len(inside) < len(moments):
            moments = [
                time for time, value in zip(moments, values[first:end], strict=True) if value is not None
            ]
        at = bisect_left(begins, begin)
        if at < len(begins) and begins[at] == begin:
            for kept, part in zip(track[1:], shape.parts, strict=True):
                kept[at] = part.merge(kept[at], part.make(moments, inside))
        else:
            begins.insert(at, begin)
            for kept, part in zip(track[1:], shape.parts, strict=True):
                kept.insert(at, part.make(moments, inside))
