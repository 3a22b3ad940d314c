"""Reads the values and the position of one view from an entity's packed state, the same for every store."""

from __future__ import annotations

from typing import Protocol

from headrace.features.online.entries import unpack_entries
from headrace.features.online.store import RowPosition, ServedPosition, StreamPosition
from headrace.features.online.tiles import Tiles, unpack_state
from headrace.features.plan import AsOfView, FeaturePlan, StoredView, WindowedView
from headrace.kernel.position import LogPosition, Position, SnapshotPosition

__all__ = ["AsOfReader", "ViewReader", "WindowedReader", "readers_of"]


class ViewReader(Protocol):
    """Reads one view of a plan into a row."""

    view: StoredView

    def read_state(
        self, packed: bytes, at: int, row: list[object], positions: dict[str, ServedPosition]
    ) -> None:
        """Writes the values at `at` into the row, and their position under the view's name."""

    def read_nothing(self, filled: Position, row: list[object], positions: dict[str, ServedPosition]) -> None:
        """Does the same for an entity without a state, in a view that is filled up to this position."""


class WindowedReader:
    """Reads a windowed view."""

    def __init__(self, view: WindowedView, index: int) -> None:
        self.view: StoredView = view
        self._name = view.name
        self._tiles = Tiles(view)
        self._indexes = slice(index, index + len(view.aggregations))
        self._nothing = self._tiles.values(self._tiles.empty(), 0)

    def read_state(
        self, packed: bytes, at: int, row: list[object], positions: dict[str, ServedPosition]
    ) -> None:
        """See ViewReader."""
        state = unpack_state(packed)
        row[self._indexes] = self._tiles.values(state, at)
        positions[self._name] = StreamPosition(state.offsets)

    def read_nothing(self, filled: Position, row: list[object], positions: dict[str, ServedPosition]) -> None:
        """See ViewReader."""
        assert isinstance(filled, LogPosition)
        row[self._indexes] = self._nothing
        positions[self._name] = StreamPosition(filled.offsets)


class AsOfReader:
    """Reads an as-of view."""

    def __init__(self, view: AsOfView, index: int, *, strict: bool) -> None:
        self.view: StoredView = view
        self._name = view.name
        self._ttl = view.ttl
        self._delay = 1 if strict else 0  # a row of this exact moment is not visible yet
        self._indexes = slice(index, index + len(view.features))
        self._nothing = [None] * len(view.features)

    def read_state(
        self, packed: bytes, at: int, row: list[object], positions: dict[str, ServedPosition]
    ) -> None:
        """See ViewReader."""
        newest = at - self._delay
        entries = unpack_entries(packed)
        for time, snapshot, values in reversed(entries):
            if time <= newest:
                if self._ttl is not None and time < at - self._ttl:
                    break
                row[self._indexes] = values
                positions[self._name] = RowPosition(snapshot, time)
                return
        snapshots = [snapshot for _, snapshot, _ in entries if snapshot is not None]
        positions[self._name] = RowPosition(snapshots[-1] if snapshots else None, None)

    def read_nothing(self, filled: Position, row: list[object], positions: dict[str, ServedPosition]) -> None:
        """See ViewReader."""
        row[self._indexes] = self._nothing
        assert isinstance(filled, SnapshotPosition)
        positions[self._name] = RowPosition(filled.snapshot_id, None)


def readers_of(plan: FeaturePlan) -> list[ViewReader]:
    """A reader for each stored view of the plan, which writes to the view's indexes in `plan.looked_up`."""
    readers: list[ViewReader] = []
    index = 0
    for view in plan.stored:
        if isinstance(view, WindowedView):
            readers.append(WindowedReader(view, index))
        else:
            readers.append(AsOfReader(view, index, strict=plan.is_strict(view)))
        index += len(view.features)
    return readers
