"""StateDatabase: the port that one kind of database implements for `entity_store.EntityStore`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from headrace.features.online.keys import Key, KeySchema
from headrace.features.plan import StoredView
from headrace.kernel.position import Position

__all__ = ["StateDatabase", "StateRow", "StatesOf"]

StateRow = tuple[Any, ...]
"""An entity's packed key, and its packed state in each requested view; None if it has none there."""

StatesOf = Callable[[list[Any]], dict[Any, StateRow]]
"""Reads the rows of packed keys; the result has those that exist, by packed key."""


class StateDatabase(Protocol):
    """Views with their positions, and for each view and entity one packed state.

    Several threads may use one instance. Calls within `writing` or `reading` belong to that transaction of the
    calling thread.

    Attributes:
        where: the database's address, for errors.
    """

    where: str

    def writing(self) -> AbstractContextManager[None]:
        """A transaction of the only writer; an error rolls it back.

        Raises:
            Unavailable: another process has been writing for too long, or the database cannot be reached.
        """

    def reading(self) -> AbstractContextManager[None]:
        """A transaction whose reads see the same state."""

    def add_view(self, view: StoredView, keys: KeySchema) -> None:
        """Adds a view without position and states. Idempotent."""

    def drop_view(self, digest: str) -> None:
        """Removes a view, its position and its states, if it exists."""

    def views(self) -> list[StoredView]:
        """Every view, sorted by digest."""

    def keys_of(self, view: StoredView) -> KeySchema | None:
        """The view's join keys; None if the view does not exist."""

    def position(self, view: StoredView) -> Position | None:
        """The view's position; None if it has none or the view does not exist."""

    def set_position(self, view: StoredView, position: Position) -> None:
        """Sets the view's position."""

    def select_states(self, keys: KeySchema, views: Sequence[StoredView]) -> StatesOf:
        """A function that reads the states of entities in these views, which have these join keys."""

    def all_states(self, view: StoredView) -> Iterator[tuple[Key, bytes]]:
        """Every entity with a state in the view, and the state."""

    def write_states(self, view: StoredView, states: Iterable[tuple[Key, bytes | None]]) -> None:
        """Replaces the states of these entities; None removes a state."""

    def clear_states(self, view: StoredView) -> None:
        """Removes every state of the view."""

    def count_states(self, view: StoredView, prefix: bytes) -> int:
        """How many states of the view begin with this byte."""

    def close(self) -> None:
        """Closes the connections."""
