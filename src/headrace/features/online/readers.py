"""From what a store holds of an entity to the values and positions of one view, for any store."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from headrace.features.online import RowPosition, ServedPosition, StreamPosition
from headrace.features.online.tiles import Tiles, unpack
from headrace.features.plan import AsOfView, FeaturePlan, StoredView, WindowedView
from headrace.kernel.position import LogPosition, Position, SnapshotPosition

__all__ = ["AsOfReader", "ViewReader", "WindowedReader", "readers_of"]

_decode = msgspec.msgpack.Decoder().decode


class ViewReader(Protocol):
    """Reads one view of a plan."""

    view: StoredView

    def known(self, packed: bytes, at: int, row: list[object], positions: dict[str, ServedPosition]) -> None:
        """Puts the values at `at` in their places in the row, and their position under the view's name."""

    def unknown(self, filled: Position, row: list[object], positions: dict[str, ServedPosition]) -> None:
        """The same for an entity of which a view that is filled to this position knows nothing."""


class WindowedReader:
    """Reads a windowed view."""

    def __init__(self, view: WindowedView, place: int) -> None:
        self.view: StoredView = view
        self._name = view.name
        self._tiles = Tiles(view)
        self._places = slice(place, place + len(view.aggregations))
        self._nothing = self._tiles.values(self._tiles.empty(), 0)

    def known(self, packed: bytes, at: int, row: list[object], positions: dict[str, ServedPosition]) -> None:
        state = unpack(packed)
        row[self._places] = self._tiles.values(state, at)
        positions[self._name] = StreamPosition(state.offsets)

    def unknown(self, filled: Position, row: list[object], positions: dict[str, ServedPosition]) -> None:
        assert isinstance(filled, LogPosition)
        row[self._places] = self._nothing
        positions[self._name] = StreamPosition(filled.offsets)


class AsOfReader:
    """Reads an as-of view: packed as a list of [time, snapshot, features], in order of time."""

    def __init__(self, view: AsOfView, place: int, *, strict: bool) -> None:
        self.view: StoredView = view
        self._name = view.name
        self._ttl = view.ttl
        self._late = 1 if strict else 0  # a row of just now is not seen yet
        self._places = slice(place, place + len(view.features))
        self._nothing = [None] * len(view.features)

    def known(self, packed: bytes, at: int, row: list[object], positions: dict[str, ServedPosition]) -> None:
        newest = at - self._late
        entries: list[tuple[int, int | None, list[Any]]] = _decode(packed)
        for time, snapshot, values in reversed(entries):
            if time <= newest:
                if self._ttl is not None and time < at - self._ttl:
                    break
                row[self._places] = values
                positions[self._name] = RowPosition(snapshot, time)
                return
        snapshots = [snapshot for _, snapshot, _ in entries if snapshot is not None]
        positions[self._name] = RowPosition(snapshots[-1] if snapshots else None, None)

    def unknown(self, filled: Position, row: list[object], positions: dict[str, ServedPosition]) -> None:
        row[self._places] = self._nothing
        assert isinstance(filled, SnapshotPosition)
        positions[self._name] = RowPosition(filled.snapshot_id, None)


def readers_of(plan: FeaturePlan) -> list[ViewReader]:
    """A reader for each stored view of the plan; each knows its place among `plan.looked_up`."""
    readers: list[ViewReader] = []
    place = 0
    for view in plan.stored:
        if isinstance(view, WindowedView):
            readers.append(WindowedReader(view, place))
        else:
            readers.append(AsOfReader(view, place, strict=plan.is_strict(view)))
        place += len(view.features)
    return readers
