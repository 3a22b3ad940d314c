"""The state of one entity in a windowed view: tiles of settled events, and the unsettled events.

An event is settled once the wall clock is past its time by `SETTLED`, because then no running lookup can have
an earlier moment. Settled events are added to tiles, one for each hop that has events. Other events are kept
as they arrived, because a lookup sees only those before its moment. Tiles that no window can reach any more
are dropped, by the wall clock and never by the time of events.

A track holds the tiles of one column at one hop as parallel lists: the tiles' begins, then one list for each
part that the view's aggregations need. A state consists of plain lists, is packed as MessagePack bytes within
MessagePack, so that joined states are separated without decoding them, and gives the same values as the
offline kernel (`offline.windows`), to the bit.

An entity whose state cannot be computed is **broken**: a string with the reason replaces its state, because a
state that lacks events would be served as if it were complete.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from headrace.features.aggregates import TilePart, TileReader, Track, aggregate_of
from headrace.features.online.keys import array_head
from headrace.features.plan import Aggregation, Dtype, WindowedView
from headrace.kernel.errors import Unavailable

__all__ = [
    "BROKEN",
    "SETTLED",
    "EntityState",
    "Tiles",
    "WindowAt",
    "decode_state",
    "pack_state",
    "separate_states",
    "unpack_state",
]

_logger = logging.getLogger(__name__)

SETTLED = 5 * 60 * 1_000_000
"""How long after its time an event is settled, microseconds."""

BROKEN = b"\x91"
"""The first byte of a broken entity's packed state, which is a list of one string."""


class EntityState(NamedTuple):
    """The state of one entity.

    Attributes:
        offsets: log partition → the first offset that the state does not include.
        times: the unsettled events' times, in order, microseconds.
        values: for each column of the view, the unsettled events' values; null does not count.
        tracks: the tracks, in the order of `Tiles.tracks`.
    """

    offsets: dict[int, int]
    times: list[int]
    values: list[list[Any]]
    tracks: list[Track]


class _TrackShape(NamedTuple):
    column: int
    hop: int
    longest: int
    parts: list[TilePart]


_Reads = list[tuple[int, int, list[tuple[int, TileReader]]]]  # track, column, (index in the row, reader)


class _Window(NamedTuple):
    """The aggregations of one window, by the track that they are read from."""

    window: int
    hop: int
    offset: int
    reads: _Reads


class WindowAt(NamedTuple):
    """A window at a moment.

    Attributes:
        begin: its first moment, microseconds.
        end: the first moment after it.
        is_open: whether no settled event is after it: settled events are before every moment.
        reads: its aggregations.
    """

    begin: int
    end: int
    is_open: bool
    reads: _Reads


class Tiles:
    """The layout of a windowed view's entity states, and how to update and read them.

    Attributes:
        view: the view.
        tracks: the shape of each track of a state.
        nothing: the view's features of no events.
    """

    def __init__(self, view: WindowedView) -> None:
        self.view = view
        self._columns = {field.name: index for index, field in enumerate(view.columns)}
        dtypes = {field.name: field.dtype for field in view.columns}
        by_track: dict[tuple[str, int], list[Aggregation]] = {}
        for aggregation in view.aggregations:
            by_track.setdefault((aggregation.column, aggregation.hop), []).append(aggregation)
        self.tracks: list[_TrackShape] = []
        windows: dict[tuple[int, int, int], dict[int, list[tuple[int, TileReader]]]] = {}
        row_indexes = {aggregation.name: index for index, aggregation in enumerate(view.aggregations)}
        for (column, hop), aggregations in by_track.items():
            parts = _parts_of(aggregations, dtypes[column])
            part_indexes = {name: index for index, name in enumerate(parts, 1)}
            for aggregation in aggregations:
                reader = aggregate_of(aggregation.function).tile_reader(part_indexes, dtypes[column])
                key = (aggregation.window, aggregation.hop, aggregation.offset)
                tracks = windows.setdefault(key, {})
                tracks.setdefault(len(self.tracks), []).append((row_indexes[aggregation.name], reader))
            longest = max(aggregation.offset + aggregation.window for aggregation in aggregations)
            self.tracks.append(_TrackShape(self._columns[column], hop, longest, list(parts.values())))
        self._windows = [
            _Window(*key, [(track, self.tracks[track].column, reads) for track, reads in tracks.items()])
            for key, tracks in windows.items()
        ]
        self.nothing = self._find_nothing()
        self._borders = [(window.offset + window.window, window.hop) for window in self._windows]
        self._borders += [(window.offset, window.hop) for window in self._windows if window.offset]

    def empty(self) -> EntityState:
        """The state of an entity without events."""
        tracks: list[Track] = [[[] for _ in range(len(track.parts) + 1)] for track in self.tracks]
        return EntityState({}, [], [[] for _ in self._columns], tracks)

    def add(
        self,
        state: EntityState,
        times: list[int],
        values: Sequence[list[Any]],
        offsets: dict[int, int],
        now: int,
    ) -> EntityState:
        """Adds events to the state, and returns the new state. `state` must not be used afterwards.

        Args:
            state: the state so far.
            times: the events' times in order, microseconds.
            values: a list for each of the view's columns, as `countable` returns them.
            offsets: the log's position after the events.
            now: the wall clock, microseconds.
        """
        if state.times:
            times, values = _merge_events(state.times, state.values, times, values)
        settled = bisect_left(times, now - SETTLED)
        if settled:
            for track, shape in zip(state.tracks, self.tracks, strict=True):
                _settle(track, shape, times[:settled], values[shape.column][:settled])
        for track, shape in zip(state.tracks, self.tracks, strict=True):
            begins, oldest = track[0], now - SETTLED - shape.longest
            if begins and begins[0] + shape.hop <= oldest:
                expired = bisect_left(begins, oldest // shape.hop * shape.hop)
                for part in track:
                    del part[:expired]
        return EntityState(offsets, times[settled:], [column[settled:] for column in values], state.tracks)

    def update(
        self,
        packed: bytes | None,
        key: tuple[Any, ...],
        events: tuple[list[int], Sequence[list[Any]]],
        offsets: dict[int, int],
        now: int,
    ) -> bytes:
        """Adds events to a packed state (None for an entity without events), and returns the new packed state.

        Does not raise if the state cannot be computed: the entity is then broken.
        """
        if packed is not None and packed[:1] == BROKEN:
            return packed
        try:
            state = self.empty() if packed is None else unpack_state(packed)
            return pack_state(self.add(state, *events, offsets, now))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            _logger.exception("entity %s of view %r is broken: %s", key, self.view.name, reason)
            return _encode([f"view {self.view.name!r}, entity {key}: {reason}"])

    def _find_nothing(self) -> list[object]:
        row: list[object] = [None] * len(self.view.aggregations)
        tracks = self.empty().tracks
        for window in self._windows:
            for track, _, readers in window.reads:
                for index, read in readers:
                    row[index] = read(tracks[track], [], [])
        return row

    def span(self, at: int) -> tuple[int, int]:
        """The moments around `at` at which every window has the same hops, from the first up to the second,
        microseconds.

        At all of these that are after its unsettled events, a state gives the same values.
        """
        moves = [(at - border) // hop * hop + border for border, hop in self._borders]
        return max(moves), min(move + hop for move, (_, hop) in zip(moves, self._borders, strict=True))

    def windows(self, at: int) -> list[WindowAt]:
        """The view's windows at `at`, microseconds."""
        return [
            WindowAt(
                (at - offset - window) // hop * hop,
                (at - offset) // hop * hop if offset else at,
                offset == 0,
                reads,
            )
            for window, hop, offset, reads in self._windows
        ]

    def values(self, state: EntityState, windows: Sequence[WindowAt]) -> list[object]:
        """The view's features in its windows at some moment, in order."""
        _, times, raw, tracks = state
        row = self.nothing.copy()
        low = high = 0
        for begin, end, is_open, reads in windows:
            if times:
                low, high = bisect_left(times, begin), bisect_left(times, end)
            seen = times[low:high]
            for track_index, column, readers in reads:
                tiles = tracks[track_index]
                first = bisect_left(tiles[0], begin)
                if not seen and first == len(tiles[0]):
                    continue
                if not is_open:
                    last = bisect_left(tiles[0], end, first)
                    tiles = [part[first:last] for part in tiles]
                elif first:
                    tiles = [part[first:] for part in tiles]
                moments, values = _drop_nulls(seen, raw[column][low:high]) if seen else (seen, seen)
                for index, read in readers:
                    row[index] = read(tiles, moments, values)
        return row


def pack_state(state: EntityState) -> bytes:
    """Packs the state."""
    return _encode(_encode(state))


def unpack_state(packed: bytes) -> EntityState:
    """Unpacks a state that `pack_state` packed.

    Raises:
        Unavailable: the entity is broken.
        msgspec.DecodeError: the bytes are not a packed state.
    """
    try:
        return decode_state(_open(packed))
    except msgspec.DecodeError:
        if packed[:1] != BROKEN:
            raise
    raise _broken(packed)


def separate_states(packed: bytes, count: int) -> list[bytes | None]:
    """The states, for `decode_state`, among the joined states (database.join_states) of `count` entities; None
    for one without a state.

    Raises:
        Unavailable: there is one entity, and it is broken.
        msgspec.DecodeError: the bytes are not packed states.
    """
    try:
        return _separate(array_head(count) + packed)
    except msgspec.DecodeError:
        if count != 1 or packed[:1] != BROKEN:
            raise
    raise _broken(packed)


def _broken(packed: bytes) -> Unavailable:
    return Unavailable(
        f"an entity's online state is broken: {_decode_reason(packed)[0]}",
        remedy="Run a headrace build that updates the online state: it computes the view's state again.",
    )


_encode = msgspec.msgpack.Encoder().encode
decode_state = msgspec.msgpack.Decoder(EntityState).decode
"""Decodes a state of `separate_states`. Raises msgspec.DecodeError for other bytes."""
_open = msgspec.msgpack.Decoder(memoryview).decode
_separate = msgspec.msgpack.Decoder(list[bytes | None]).decode
_decode_reason = msgspec.msgpack.Decoder(list[str]).decode


def _parts_of(aggregations: Sequence[Aggregation], dtype: Dtype) -> dict[str, TilePart]:
    """The parts that these aggregations of one column need, by name."""
    parts: dict[str, TilePart] = {}
    for aggregation in aggregations:
        for part in aggregate_of(aggregation.function).tile_parts(dtype):
            if part.name not in parts or parts[part.name].size < part.size:
                parts[part.name] = part
    return parts


def _merge_events(
    times: list[int], values: Sequence[list[Any]], more: list[int], more_values: Sequence[list[Any]]
) -> tuple[list[int], Sequence[list[Any]]]:
    """Merges two lists of events, in the order of their times."""
    both = times + more
    columns = [old + new for old, new in zip(values, more_values, strict=True)]
    if not more or times[-1] <= more[0]:
        return both, columns
    order = sorted(range(len(both)), key=both.__getitem__)
    return [both[i] for i in order], [[column[i] for i in order] for column in columns]


def _drop_nulls(times: list[int], values: list[Any]) -> tuple[list[int], list[Any]]:
    """The times and values of those events whose value is not null."""
    if None not in values:
        return times, values
    pairs = [(time, value) for time, value in zip(times, values, strict=True) if value is not None]
    return [time for time, _ in pairs], [value for _, value in pairs]


def _settle(track: Track, shape: _TrackShape, times: list[int], values: list[Any]) -> None:
    """Adds events, in the order of their times, to their tiles."""
    begins, hop, count = track[0], shape.hop, len(times)
    end = 0
    while end < count:
        first = end
        begin = times[first] // hop * hop
        end = bisect_left(times, begin + hop, first)
        moments, inside = _drop_nulls(times[first:end], values[first:end])
        if not inside:
            continue
        at = bisect_left(begins, begin)
        if at < len(begins) and begins[at] == begin:
            for tiles, part in zip(track[1:], shape.parts, strict=True):
                tiles[at] = part.merge(tiles[at], part.make(moments, inside))
        else:
            begins.insert(at, begin)
            for tiles, part in zip(track[1:], shape.parts, strict=True):
                tiles.insert(at, part.make(moments, inside))
