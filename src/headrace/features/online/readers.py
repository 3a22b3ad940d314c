"""Reads the values and the position of one view from an entity's packed state, the same for every store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import msgspec

from headrace.features.online.entries import Entry, unpack_joined_entries
from headrace.features.online.keys import PackedKey
from headrace.features.online.memo import KnownRow, RowMemo
from headrace.features.online.store import RowPosition, ServedPosition, StreamPosition
from headrace.features.online.tiles import Tiles, WindowAt, decode_state, separate_states
from headrace.features.plan import AsOfView, FeaturePlan, StoredView, WindowedView
from headrace.kernel.errors import Unavailable
from headrace.kernel.position import LogPosition, Position, SnapshotPosition

__all__ = ["AsOfReader", "UnreadableState", "ViewReader", "WindowedReader", "readers_of"]

_NEVER = -(1 << 63)  # before every moment
_Kind = TypeVar("_Kind", LogPosition, SnapshotPosition)


class UnreadableState(Exception):
    """A state is not one that was packed; the cause is the error.

    Args:
        view: the view of the state.
    """

    def __init__(self, view: StoredView) -> None:
        super().__init__(view.name)
        self.view = view


class ViewReader(Protocol):
    """Reads one view of a plan."""

    view: StoredView

    def read(
        self, states: bytes, keys: Sequence[PackedKey], filled: Position | None, at: int
    ) -> tuple[list[list[object]], Sequence[ServedPosition]]:
        """The view's values, a new list for each entity, and their positions.

        Args:
            states: the joined states of the entities (database.join_states).
            keys: the entities' keys.
            filled: the view's position; it may be None if every entity has a state.
            at: the moment, microseconds.

        Raises:
            UnreadableState: a state is not one that was packed; or, of several entities, one is broken.
            Unavailable: the only entity is broken, or the view is not filled.
        """


class WindowedReader:
    """Reads a windowed view."""

    def __init__(self, view: WindowedView) -> None:
        self.view: StoredView = view
        self._tiles = Tiles(view)
        self._lists = [i for i, field in enumerate(view.features) if field.dtype.startswith("list[")]
        self._memo = RowMemo(0, 0, 0)

    def drop_known_rows(self, now: int) -> None:
        """Drops the rows that are kept from lookups, if they were to be kept until `now`, microseconds."""
        if self._memo.end <= now:
            self._memo = RowMemo(0, 0, 0)

    def read(
        self, states: bytes, keys: Sequence[PackedKey], filled: Position | None, at: int
    ) -> tuple[list[list[object]], Sequence[ServedPosition]]:
        """See ViewReader."""
        memo = self._memo
        if not memo.start <= at < memo.end:
            memo = self._memo = RowMemo(*self._tiles.span(at), at)
        windows = self._tiles.windows(at)
        rows: list[list[object]] = []
        positions: list[ServedPosition] = []
        try:
            for key, state in zip(keys, separate_states(states, len(keys)), strict=True):
                known = memo.rows.get(key)
                if known is None or known.state != state or known.newest >= at:
                    known = self._compute(state, filled, windows, at)
                    if known.newest < at:
                        memo.add(key, known)
                    else:
                        memo.rows.pop(key, None)
                rows.append([*known.values])
                positions.append(known.position)
        except Unavailable:
            raise
        except Exception as error:
            raise UnreadableState(self.view) from error
        for index in self._lists:  # whoever gets them may change them
            for row in rows:
                values = row[index]
                if isinstance(values, list):
                    row[index] = values.copy()
        return rows, positions

    def _compute(
        self, packed: bytes | None, filled: Position | None, windows: Sequence[WindowAt], at: int
    ) -> KnownRow:
        """The row of a state in the windows at `at`."""
        if packed is None:
            position = StreamPosition(_require(self.view, filled, LogPosition).offsets)
            return KnownRow(b"", at, self._tiles.nothing, position)
        state = decode_state(packed)
        newest = state.times[-1] if state.times else _NEVER
        values = tuple(self._tiles.values(state, windows))
        return KnownRow(packed, newest, values, StreamPosition(state.offsets))


class AsOfReader:
    """Reads an as-of view."""

    def __init__(self, view: AsOfView, *, strict: bool) -> None:
        self.view: StoredView = view
        self._width = len(view.features)
        self._ttl = view.ttl
        self._delay = 1 if strict else 0  # a row of this exact moment is not visible yet

    def read(
        self, states: bytes, keys: Sequence[PackedKey], filled: Position | None, at: int
    ) -> tuple[list[list[object]], Sequence[ServedPosition]]:
        """See ViewReader."""
        newest, oldest = at - self._delay, _NEVER if self._ttl is None else at - self._ttl
        try:
            entities = unpack_joined_entries(states, len(keys))
        except msgspec.DecodeError as error:
            raise UnreadableState(self.view) from error
        try:  # the usual case: each entity has a row, and its last one is visible
            last = [entity[-1] for entity in entities]  # type: ignore[index]
            times, snapshots, values = zip(*last, strict=True)
            if oldest <= min(times) and max(times) <= newest:
                return list(values), list(map(RowPosition, snapshots, times))
        except (IndexError, TypeError, ValueError):
            pass
        rows: list[list[object]] = []
        positions: list[ServedPosition] = []
        for entity in entities:
            row, position = self._select(entity, filled, newest, oldest)
            rows.append(row)
            positions.append(position)
        return rows, positions

    def _select(
        self, entries: list[Entry] | None, filled: Position | None, newest: int, oldest: int
    ) -> tuple[list[object], RowPosition]:
        """The values that an entity's rows have between two moments, and their position."""
        if entries is None:
            snapshot: int | None = _require(self.view, filled, SnapshotPosition).snapshot_id
            return [None] * self._width, RowPosition(snapshot, None)
        visible = _find_visible(entries, newest)
        if visible is None or visible[0] < oldest:
            snapshots = [snapshot for _, snapshot, _ in entries if snapshot is not None]
            return [None] * self._width, RowPosition(snapshots[-1] if snapshots else None, None)
        time, snapshot, values = visible
        return values, RowPosition(snapshot, time)


def _find_visible(entries: list[Entry], newest: int) -> Entry | None:
    """The last entry that is not after `newest`."""
    return next((entry for entry in reversed(entries) if entry[0] <= newest), None)


def _require(view: StoredView, filled: Position | None, kind: type[_Kind]) -> _Kind:
    if filled is None:
        raise Unavailable(f"view {view.name!r} holds no values yet", remedy="headrace build fills it.")
    assert isinstance(filled, kind)
    return filled


def readers_of(plan: FeaturePlan) -> list[ViewReader]:
    """A reader for each stored view of the plan."""
    return [
        WindowedReader(view)
        if isinstance(view, WindowedView)
        else AsOfReader(view, strict=plan.is_strict(view))
        for view in plan.stored
    ]
