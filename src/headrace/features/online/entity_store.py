"""EntityStore: the online store on any `StateDatabase`.

It implements everything that does not depend on the database: updating and reading entity states, packing keys,
grouping a plan's views by their join keys, and comparing positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from headrace.features.online.batches import entries_by_entity, events_by_entity
from headrace.features.online.database import StateDatabase
from headrace.features.online.entries import merge_entries, pack_entries, select_pushed, unpack_entries
from headrace.features.online.keys import Key, KeySchema
from headrace.features.online.readers import ViewReader, readers_of
from headrace.features.online.store import LookupResult, ServedPosition, UnreadEvent
from headrace.features.online.tiles import BROKEN, Tiles
from headrace.features.plan import AsOfView, FeaturePlan, StoredView, WindowedView
from headrace.kernel import faults
from headrace.kernel.errors import CallError, Conflict, Unavailable
from headrace.kernel.position import LogPosition, Position, SnapshotPosition
from headrace.kernel.time import now_micros

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["EntityStore"]

_NO_STATES = (None,)


class EntityStore:
    """See features.online.OnlineStore.

    Args:
        database: the database that keeps the states.
        clock: the wall clock, microseconds.
    """

    def __init__(self, database: StateDatabase, *, clock: Callable[[], int] = now_micros) -> None:
        self._database = database
        self._clock = clock
        self._tiles: dict[str, Tiles] = {}
        self._lookups: dict[str, _PlanLookup] = {}

    def prepare(self, plan: FeaturePlan) -> None:
        """See OnlineStore."""
        with self._database.writing():
            for view in plan.stored:
                self._database.add_view(view, KeySchema.of(plan, view))

    def views(self) -> list[StoredView]:
        """See OnlineStore."""
        return self._database.views()

    def drop(self, digest: str) -> None:
        """See OnlineStore."""
        with self._database.writing():
            self._database.drop_view(digest)
        self._lookups.clear()

    def position(self, view: StoredView) -> Position | None:
        """See OnlineStore."""
        return self._database.position(view)

    def load(self, view: AsOfView, rows: pa.Table, position: SnapshotPosition) -> int:
        """See OnlineStore."""
        database, now = self._database, self._clock()
        _keys_of(database, view).check(view, rows)
        entries = dict(entries_by_entity(view, rows, position.snapshot_id, now))
        with database.writing():
            states: dict[Key, bytes | None] = {}
            for key, packed in database.all_states(view):
                loaded = entries.get(key, [])
                pushed = select_pushed(packed)
                visible = merge_entries(pushed, loaded, view, now) if pushed else loaded
                states[key] = pack_entries(visible) if visible else None
            states |= {key: pack_entries(loaded) for key, loaded in entries.items() if key not in states}
            database.write_states(view, states.items())
            faults.reach("online.load.written")
            database.set_position(view, position)
        return len(entries)

    def push(self, view: AsOfView, rows: pa.Table) -> int:
        """See OnlineStore."""
        database, now = self._database, self._clock()
        _keys_of(database, view).check(view, rows)
        entries = dict(entries_by_entity(view, rows, None, now))
        with database.writing():
            states = self._states(view, entries)
            for key, pushed in entries.items():
                old = unpack_entries(states[key]) if key in states else []
                states[key] = pack_entries(merge_entries(old, pushed, view, now) if old else pushed)
            database.write_states(view, states.items())
            if database.position(view) is None:
                database.set_position(view, SnapshotPosition(view.table, 0))
        return len(entries)

    def fill(self, view: WindowedView, rows: pa.Table, position: LogPosition) -> int:
        """See OnlineStore."""
        database, now, tiles = self._database, self._clock(), self._tiles_of(view)
        _keys_of(database, view).check(view, rows)
        states = [
            (key, tiles.update(None, key, events, position.offsets, now))
            for key, events in events_by_entity(view, rows, now)
        ]
        with database.writing():
            database.clear_states(view)
            database.write_states(view, states)
            faults.reach("online.fill.written")
            database.set_position(view, position)
        return len(states)

    def count_broken(self, view: WindowedView) -> int:
        """See OnlineStore."""
        _keys_of(self._database, view)
        return self._database.count_states(view, BROKEN)

    def apply(
        self,
        views: Sequence[WindowedView],
        rows: pa.Table,
        position: LogPosition,
        *,
        after: LogPosition,
        unread: Sequence[UnreadEvent] = (),
    ) -> None:
        """See OnlineStore."""
        database, now = self._database, self._clock()
        batches = [dict(events_by_entity(view, rows, now)) for view in views]
        with database.writing():
            for view, events in zip(views, batches, strict=True):
                new_position = self._advance(view, position, after)
                tiles, old = self._tiles_of(view), self._states(view, events)
                states = {
                    key: tiles.update(old.get(key), key, batch, new_position.offsets, now)
                    for key, batch in events.items()
                }
                for event in unread:
                    key = tuple(event.fields[name] for name in view.keys)
                    if None not in key:
                        states[key] = tiles.pack_broken(key, event.reason)
                database.write_states(view, states.items())
                faults.reach("online.apply.written")
                database.set_position(view, new_position)
        faults.reach("online.apply.committed")

    def lookup(self, plan: FeaturePlan, keys: Sequence[Mapping[str, object]], at: int) -> LookupResult:
        """See OnlineStore."""
        lookup = self._lookups.get(plan.digest)
        if lookup is None:
            lookup = self._lookups[plan.digest] = _PlanLookup(self._database, plan)
        return lookup.find(keys, at)

    def close(self) -> None:
        """See OnlineStore."""
        self._database.close()

    def _tiles_of(self, view: WindowedView) -> Tiles:
        if view.digest not in self._tiles:
            self._tiles[view.digest] = Tiles(view)
        return self._tiles[view.digest]

    def _states(self, view: StoredView, keys: Mapping[Key, object]) -> dict[Key, bytes]:
        """The packed states of these entities; those without a state are left out."""
        schema = _keys_of(self._database, view)
        pack = schema.packer()
        packed_keys = {pack(key): key for key in keys}
        rows = self._database.select_states(schema, [view])(list(packed_keys))
        return {packed_keys[packed]: row[1] for packed, row in rows.items() if row[1] is not None}

    def _advance(self, view: WindowedView, position: LogPosition, after: LogPosition) -> LogPosition:
        """The view's position after it moves from `after` to `position`."""
        current = self._database.position(view)
        moves = {p: end for p, end in position.offsets.items() if end != after.next_offset(p)}
        if (
            not isinstance(current, LogPosition)
            or current.log_id != after.log_id
            or any(current.next_offset(p) != after.next_offset(p) for p in moves)
        ):
            raise Conflict(
                f"view {view.name!r} is at {current}, not at {after}",
                where=self._database.where,
                remedy="Another process moved it. Read its position again, and continue from there.",
            )
        return current.with_offsets(moves)


class _PlanLookup:
    """Looks up one plan, by one read for each set of join keys."""

    def __init__(self, database: StateDatabase, plan: FeaturePlan) -> None:
        self._width = len(plan.looked_up)
        groups: dict[KeySchema, list[ViewReader]] = {}
        for reader in readers_of(plan):
            groups.setdefault(_keys_of(database, reader.view), []).append(reader)
        self._groups = [_KeyGroup(database, keys, readers) for keys, readers in groups.items()]

    def find(self, keys: Sequence[Mapping[str, object]], at: int) -> LookupResult:
        """See OnlineStore.lookup."""
        rows: list[list[object]] = [[None] * self._width for _ in keys]
        positions: list[dict[str, ServedPosition]] = [{} for _ in keys]
        for group in self._groups:
            group.find(keys, at, rows, positions)
        return LookupResult(rows, positions)


class _KeyGroup:
    """The views of a plan that share their join keys."""

    def __init__(self, database: StateDatabase, keys: KeySchema, readers: list[ViewReader]) -> None:
        self._database = database
        self._names = tuple(name for name, _ in keys.columns)
        self._pack = keys.packer()
        self._readers = readers
        self._select = database.select_states(keys, [reader.view for reader in readers])

    def find(
        self,
        keys: Sequence[Mapping[str, object]],
        at: int,
        rows: list[list[object]],
        positions: list[dict[str, ServedPosition]],
    ) -> None:
        """Writes the group's values and their positions into the rows."""
        names, pack = self._names, self._pack
        packed_keys = [pack(tuple([key[name] for name in names])) for key in keys]
        states = self._select(packed_keys)
        filled: list[Position] | None = None
        if any(states.get(key, _NO_STATES).count(None) for key in packed_keys):
            # An entity without a state gets its view's position, so one transaction reads both.
            with self._database.reading():
                filled = [self._position_of(reader.view) for reader in self._readers]
                states = self._select(packed_keys)
        for index, packed_key in enumerate(packed_keys):
            row = states.get(packed_key)
            for column, reader in enumerate(self._readers, 1):
                if row is None or row[column] is None:
                    assert filled is not None
                    reader.read_nothing(filled[column - 1], rows[index], positions[index])
                    continue
                try:
                    reader.read_state(row[column], at, rows[index], positions[index])
                except Unavailable:
                    raise
                except Exception as error:
                    raise self._unreadable(reader.view, keys[index], error) from error

    def _position_of(self, view: StoredView) -> Position:
        position = self._database.position(view)
        if position is None:
            raise Unavailable(f"view {view.name!r} holds no values yet", remedy="headrace build fills it.")
        return position

    def _unreadable(self, view: StoredView, key: Mapping[str, object], error: Exception) -> Unavailable:
        entity = ", ".join(f"{name}={key[name]!r}" for name in view.keys)
        return Unavailable(
            f"the online state of {entity} in view {view.name!r} is unreadable:"
            f" {type(error).__name__}: {error}",
            where=self._database.where,
            remedy="Stop headrace, delete the online store, and run headrace build, which fills it again.",
        )


def _keys_of(database: StateDatabase, view: StoredView) -> KeySchema:
    keys = database.keys_of(view)
    if keys is None:
        raise CallError(
            f"view {view.name!r} ({view.digest}) is not in the online store", remedy="headrace build fills it."
        )
    return keys
