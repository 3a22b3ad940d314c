"""StateDatabase: the port that one kind of database implements for `entity_store.EntityStore`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import NamedTuple, Protocol

import msgspec

from headrace.features.online.keys import KeySchema, PackedKey
from headrace.features.plan import StoredView
from headrace.kernel.position import Position

__all__ = [
    "NO_STATE",
    "EntityGroup",
    "MissingView",
    "ReadStates",
    "StateDatabase",
    "StatesRead",
    "decode_views",
    "join_states",
]

_decode_view = msgspec.json.Decoder(StoredView).decode

NO_STATE = b"\xc0"
"""The place of an entity without a state among joined states: MessagePack's nil."""


class MissingView(Exception):
    """A view was dropped meanwhile.

    Args:
        digest: the view's digest; empty if it is not known.
    """

    def __init__(self, digest: str = "") -> None:
        super().__init__(digest)
        self.digest = digest


class EntityGroup(NamedTuple):
    """Views of a plan that have the same join keys."""

    keys: KeySchema
    views: Sequence[StoredView]


class StatesRead(NamedTuple):
    """What a reader has read.

    Attributes:
        states: for each group and view of it, the joined states of the entities, in the order of their keys, as
            `join_states` joins them.
        positions: for each group, the positions of its views at the same moment; None if every entity that was
            asked for has a state in every view.
    """

    states: Sequence[Sequence[bytes]]
    positions: Sequence[Sequence[Position | None]] | None


ReadStates = Callable[[Sequence[Sequence[PackedKey]]], StatesRead]
"""Reads the states of the entities with these packed keys, which are given for each group, in one round trip.
Raises MissingView, or Unavailable if the database does not answer."""


class StateDatabase(Protocol):
    """Views with their positions, and for each view and entity one packed state.

    Several threads may use one instance. Calls within `writing` belong to that transaction of the calling
    thread. Every method raises Unavailable if the database cannot be reached.

    Attributes:
        where: the database's address, for errors.
    """

    where: str

    def writing(self, views: Sequence[StoredView] = ()) -> AbstractContextManager[None]:
        """A transaction of the only writer of these views; without views, of the only one that adds or drops
        views. An error rolls it back.

        Raises:
            Unavailable: another process has been writing for too long.
            MissingView: a view was dropped.
        """

    def add_view(self, view: StoredView, keys: KeySchema) -> None:
        """Adds a view without position and states. Idempotent."""

    def drop_view(self, digest: str) -> None:
        """Removes a view, its position and its states, if it exists."""

    def views(self) -> list[StoredView]:
        """Every view whose digest is still that of its record (decode_views), sorted by digest."""

    def positions(self) -> dict[str, Position]:
        """The digest of each view that has a position → the position."""

    def keys_of(self, view: StoredView) -> KeySchema | None:
        """The view's join keys; None if the view does not exist."""

    def position(self, view: StoredView) -> Position | None:
        """The view's position; None if it has none or the view does not exist."""

    def set_position(self, view: StoredView, position: Position) -> None:
        """Sets the view's position."""

    def reader(self, groups: Sequence[EntityGroup]) -> ReadStates:
        """A function that reads the states of entities in these views, outside of `writing`."""

    def read_states(self, view: StoredView, keys: Sequence[PackedKey]) -> dict[PackedKey, bytes]:
        """The states of those of these entities that have one."""

    def find_states(self, view: StoredView, prefix: bytes) -> Iterator[tuple[PackedKey, bytes]]:
        """The entities whose state begins with this byte, and the states."""

    def count_states(self, view: StoredView, prefix: bytes) -> int:
        """How many states of the view begin with this byte."""

    def write_states(self, view: StoredView, states: Mapping[PackedKey, bytes]) -> None:
        """Adds or replaces the states of these entities."""

    def remove_states(self, view: StoredView, keys: Sequence[PackedKey]) -> None:
        """Removes the states of these entities, as far as they have one."""

    def replace_states(self, view: StoredView, states: Iterable[tuple[PackedKey, bytes]]) -> None:
        """Replaces every state of the view by these, one an entity. Readers see the old ones until the end of
        `writing`."""

    def close(self) -> None:
        """Closes the connections."""


def join_states(states: Iterable[bytes | None]) -> bytes:
    """Joins packed states, each one MessagePack value, so that all of them are decoded in one call."""
    return b"".join([NO_STATE if state is None else state for state in states])


def decode_views(records: Iterable[tuple[str, str | bytes]]) -> list[StoredView]:
    """The views of stored records, each a digest and a view as JSON.

    A view whose digest is another one now was stored by another version of Headrace, which computes values from
    other parts of a view. Its state is not that of the view: it is left out, until the view is filled again.
    """
    views = []
    for digest, text in records:
        with suppress(msgspec.ValidationError):
            view = _decode_view(text)
            if view.digest == digest:
                views.append(view)
    return views
