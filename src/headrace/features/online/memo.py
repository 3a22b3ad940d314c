"""RowMemo: the rows of entities whose windows were computed a moment ago."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from headrace.features.online.keys import PackedKey
from headrace.features.online.store import StreamPosition

__all__ = ["KnownRow", "RowMemo"]

_LARGEST = 32 << 20  # bytes that a memo takes, about
_LONGEST = 60_000_000  # microseconds that a memo lasts, also for entities that the store was told to forget
_ENTITY, _VALUE, _ITEM = 600, 32, 64  # bytes that an entity, a value and an item of a list take, about


class KnownRow(NamedTuple):
    """The row of an entity.

    Attributes:
        state: the state that it was computed from.
        newest: the time of the state's last unsettled event, microseconds: the row is right only after it.
        values: the view's features.
        position: their position.
    """

    state: bytes
    newest: int
    values: Sequence[object]
    position: StreamPosition


class RowMemo:
    """The rows of a windowed view at the moments of one span (tiles.Tiles.span), for at most a minute.

    Threads may share it.

    A row is that of its entity as long as the store returns the same state, byte for byte.

    Args:
        start: the first moment of the span, microseconds.
        end: the first moment after it.
        at: the moment at which the memo begins.
    """

    def __init__(self, start: int, end: int, at: int) -> None:
        self.start, self.end = start, min(end, at + _LONGEST)
        self.rows: dict[PackedKey, KnownRow] = {}
        self._size = 0

    def add(self, key: PackedKey, row: KnownRow) -> None:
        """Adds a row, or replaces it. A full memo is emptied before."""
        if self._size > _LARGEST:
            self.rows.clear()
            self._size = 0
        self.rows[key] = row
        items = sum(len(value) for value in row.values if isinstance(value, list))
        self._size += len(row.state) + _ENTITY + _VALUE * len(row.values) + _ITEM * items
