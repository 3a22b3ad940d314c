"""Reads the values and the position of one view from an entity's packed state, the same for every store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from headrace.features.online.entries import Entry, unpack_entries
from headrace.features.online.store import RowPosition, ServedPosition, StreamPosition
from headrace.features.online.tiles import Tiles, unpack_state
from headrace.features.plan import AsOfView, FeaturePlan, StoredView, WindowedView
from headrace.kernel.errors import Unavailable
from headrace.kernel.position import LogPosition, Position, SnapshotPosition

__all__ = ["AsOfReader", "UnreadableState", "ViewReader", "WindowedReader", "readers_of"]

_Kind = TypeVar("_Kind", LogPosition, SnapshotPosition)


class UnreadableState(Exception):
    """A state is not one that was packed; the cause is the error.

    Args:
        index: the index of the state.
    """

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


class ViewReader(Protocol):
    """Reads one view of a plan into rows."""

    view: StoredView

    def read(
        self,
        states: Sequence[bytes | None],
        filled: Position | None,
        at: int,
        rows: Sequence[list[object]],
        positions: Sequence[dict[str, ServedPosition]],
    ) -> None:
        """Writes the values of entities into their rows, and their positions under the view's name.

        Args:
            states: each entity's packed state; None if it has none.
            filled: the view's position; it may be None if every entity has a state.
            at: the moment, microseconds.
            rows, positions: a row of nulls, and a dict, for each entity.

        Raises:
            UnreadableState: a state is not one that was packed.
            Unavailable: an entity is broken, or the view is not filled.
        """


class WindowedReader:
    """Reads a windowed view."""

    def __init__(self, view: WindowedView, index: int) -> None:
        self.view: StoredView = view
        self._name = view.name
        self._tiles = Tiles(view)
        self._indexes = slice(index, index + len(view.aggregations))

    def read(
        self,
        states: Sequence[bytes | None],
        filled: Position | None,
        at: int,
        rows: Sequence[list[object]],
        positions: Sequence[dict[str, ServedPosition]],
    ) -> None:
        """See ViewReader."""
        name, indexes, values_at = self._name, self._indexes, self._tiles.values
        nothing = (
            None if None not in states else StreamPosition(_require(self.view, filled, LogPosition).offsets)
        )
        index = 0
        try:
            for index, packed in enumerate(states):
                if packed is None:
                    rows[index][indexes] = self._tiles.nothing
                    positions[index][name] = nothing  # type: ignore[assignment]  # there is a position
                    continue
                state = unpack_state(packed)
                rows[index][indexes] = values_at(state, at)
                positions[index][name] = StreamPosition(state.offsets)
        except Unavailable:
            raise
        except Exception as error:
            raise UnreadableState(index) from error


class AsOfReader:
    """Reads an as-of view."""

    def __init__(self, view: AsOfView, index: int, *, strict: bool) -> None:
        self.view: StoredView = view
        self._name = view.name
        self._ttl = view.ttl
        self._delay = 1 if strict else 0  # a row of this exact moment is not visible yet
        self._indexes = slice(index, index + len(view.features))

    def read(
        self,
        states: Sequence[bytes | None],
        filled: Position | None,
        at: int,
        rows: Sequence[list[object]],
        positions: Sequence[dict[str, ServedPosition]],
    ) -> None:
        """See ViewReader."""
        name, indexes, newest = self._name, self._indexes, at - self._delay
        oldest = None if self._ttl is None else at - self._ttl
        nothing = None
        if None in states:
            nothing = RowPosition(_require(self.view, filled, SnapshotPosition).snapshot_id, None)
        index = 0
        try:
            for index, packed in enumerate(states):
                if packed is None:
                    positions[index][name] = nothing  # type: ignore[assignment]  # there is a position
                    continue
                entries = unpack_entries(packed)
                visible = (
                    entries[-1] if entries and entries[-1][0] <= newest else _find_visible(entries, newest)
                )
                if visible is None or (oldest is not None and visible[0] < oldest):
                    snapshots = [snapshot for _, snapshot, _ in entries if snapshot is not None]
                    positions[index][name] = RowPosition(snapshots[-1] if snapshots else None, None)
                    continue
                time, snapshot, rows[index][indexes] = visible
                positions[index][name] = RowPosition(snapshot, time)
        except Exception as error:
            raise UnreadableState(index) from error


def _find_visible(entries: list[Entry], newest: int) -> Entry | None:
    """The last entry that is not after `newest`."""
    return next((entry for entry in reversed(entries) if entry[0] <= newest), None)


def _require(view: StoredView, filled: Position | None, kind: type[_Kind]) -> _Kind:
    if filled is None:
        raise Unavailable(f"view {view.name!r} holds no values yet", remedy="headrace build fills it.")
    assert isinstance(filled, kind)
    return filled


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
