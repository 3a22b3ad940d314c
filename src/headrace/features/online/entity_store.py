"""EntityStore: the online store on any `StateDatabase`.

It implements everything that does not depend on the database: updating and reading entity states, packing keys,
grouping a plan's views by their join keys, and comparing positions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

from headrace.features.online.batches import entries_by_entity, events_by_entity, pack_rows
from headrace.features.online.database import EntityGroup, MissingView, StateDatabase, StatesRead
from headrace.features.online.entries import (
    PUSHED,
    Entry,
    merge_entries,
    pack_entries,
    select_pushed,
    unpack_entries,
)
from headrace.features.online.keys import Key, KeySchema, PackedKey, PackedState
from headrace.features.online.readers import UnreadableState, ViewReader, WindowedReader, readers_of
from headrace.features.online.store import LookupResult, ServedPosition, StoreUnavailable, ViewCost
from headrace.features.online.tiles import BROKEN, Tiles
from headrace.features.plan import AsOfView, FeaturePlan, StoredView, WindowedView
from headrace.kernel import faults
from headrace.kernel.errors import CallError, Conflict, Unavailable
from headrace.kernel.position import LogPosition, Position, SnapshotPosition, leads_of
from headrace.kernel.uptime import steady_micros

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["EntityStore"]


class EntityStore:
    """See features.online.OnlineStore.

    Args:
        database: the database that keeps the states.
        clock: microseconds since 1970; it decides what no lookup can reach any more.
    """

    def __init__(self, database: StateDatabase, *, clock: Callable[[], int] = steady_micros) -> None:
        self._database = database
        self._clock = clock
        self._tiles: dict[str, Tiles] = {}
        self._lookups: dict[str, _PlanLookup] = {}

    def prepare(self, plan: FeaturePlan) -> None:
        """See OnlineStore."""
        known = {view.digest for view in self._database.views()}
        if known.issuperset(view.digest for view in plan.stored):
            return
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

    def positions(self) -> dict[str, Position]:
        """See OnlineStore."""
        return self._database.positions()

    def load(self, view: AsOfView, rows: pa.Table, position: SnapshotPosition) -> int:
        """See OnlineStore."""
        keys = _keys_of(self._database, view)
        states = pack_rows(view, keys, rows, position.snapshot_id, self._clock())
        return self.load_states(view, states, position)

    def load_states(self, view: AsOfView, states: Sequence[PackedState], position: SnapshotPosition) -> int:
        """See OnlineStore."""
        database, now = self._database, self._clock()
        with self._writing(view):
            pushed = {key: select_pushed(state) for key, state in database.find_states(view, PUSHED)}
            database.replace_states(view, _merge_pushed(states, pushed, view, now))
            faults.reach("online.load.written")
            database.set_position(view, position)
        return len(states)

    def push(self, view: AsOfView, rows: pa.Table) -> int:
        """See OnlineStore."""
        database, now, pack = self._database, self._clock(), self._packer(view, rows)
        entries = {pack(key): pushed for key, pushed in entries_by_entity(view, rows, None, now)}
        with self._writing(view):
            states = database.read_states(view, list(entries))
            for packed_key, pushed in entries.items():
                old = unpack_entries(states[packed_key]) if packed_key in states else []
                states[packed_key] = pack_entries(merge_entries(old, pushed, view, now) if old else pushed)
            database.write_states(view, states)
            if database.position(view) is None:
                database.set_position(view, SnapshotPosition(view.table, 0))
        return len(entries)

    def fill(self, view: WindowedView, rows: pa.Table, position: LogPosition) -> int:
        """See OnlineStore."""
        database, now, pack = self._database, self._clock(), self._packer(view, rows)
        tiles = self._tiles_of(view)
        states = [
            (pack(key), tiles.update(None, key, events, position.offsets, now))
            for key, events in events_by_entity(view, rows, now)
        ]
        with self._writing(view):
            database.replace_states(view, states)
            faults.reach("online.fill.written")
            database.set_position(view, position)
        return len(states)

    def forget(self, entities: Sequence[Mapping[str, object]]) -> int:
        """See OnlineStore."""
        views: list[tuple[StoredView, list[PackedKey]]] = []
        schemas = [(view, _keys_of(self._database, view)) for view in self._database.views()]
        dtypes: dict[str, set[str]] = {}
        for _, schema in schemas:
            for name, dtype in schema.columns:
                dtypes.setdefault(name, set()).add(dtype)
        for view, schema in schemas:
            pack = schema.packer()
            keys: dict[PackedKey, None] = {}
            for entity in entities:
                if entity.keys().isdisjoint(view.keys):  # so is a view without keys: its row is of no entity
                    continue
                if not entity.keys() >= set(view.keys):
                    raise _lacking_key(view, entity)
                key = schema.convert_key(view, tuple(entity[name] for name in view.keys), dtypes)
                if key is not None:
                    keys[pack(key)] = None
            if present := [key for key in keys if key is not None]:
                views.append((view, list[PackedKey](present)))
        count = 0
        with self._writing(*(view for view, _ in views)):
            for view, packed_keys in views:
                count += len(self._database.read_states(view, packed_keys))
                self._database.remove_states(view, packed_keys)
        return count

    def drop_known_rows(self) -> None:
        """See OnlineStore."""
        now = self._clock()
        for lookup in [*self._lookups.values()]:
            lookup.drop_known_rows(now)

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
    ) -> None:
        """See OnlineStore."""
        database, now = self._database, self._clock()
        batches = [list(events_by_entity(view, rows, now)) for view in views]
        packers = [_keys_of(database, view).packer() for view in views]
        with self._writing(*views):
            for view, pack, events in zip(views, packers, batches, strict=True):
                new_position, tiles = self._advance(view, position, after), self._tiles_of(view)
                packed_keys = [pack(key) for key, _ in events]
                old = database.read_states(view, packed_keys)
                states = {
                    packed_key: tiles.update(old.get(packed_key), key, batch, new_position.offsets, now)
                    for packed_key, (key, batch) in zip(packed_keys, events, strict=True)
                }
                database.write_states(view, states)
                faults.reach("online.apply.written")
                database.set_position(view, new_position)
        faults.reach("online.apply.committed")

    def end_leads(self, views: Sequence[WindowedView], at: LogPosition, partitions: Collection[int]) -> None:
        """See OnlineStore."""
        ended = {p: (at.next_offset(p), lead) for p, lead in leads_of(at).items() if p in partitions}
        with self._writing(*views):
            for view in views:
                current = self._database.position(view)
                if isinstance(current, LogPosition):
                    leads = leads_of(current).items()
                    kept = {p: lead for p, lead in leads if ended.get(p) != (current.next_offset(p), lead)}
                    self._database.set_position(view, current.with_leads(kept))

    def lookup(self, plan: FeaturePlan, keys: Sequence[Mapping[str, object]], at: int) -> LookupResult:
        """See OnlineStore."""
        try:
            try:
                lookup, packed_keys, states = self._read(plan, keys)
            except MissingView:  # another process dropped it, or added it again
                self._lookups.pop(plan.digest, None)
                lookup, packed_keys, states = self._read(plan, keys)
        except MissingView as error:
            raise CallError(
                f"a view of the plan of {plan.model!r} was dropped from the online store",
                remedy="headrace build fills it.",
            ) from error
        except Unavailable as error:
            raise StoreUnavailable(error.what, where=error.where, remedy=error.remedy) from error
        try:
            return lookup.values(len(keys), packed_keys, states, at)
        except UnreadableState as error:
            if len(keys) == 1:
                raise self._unreadable(error, keys[0]) from error
        # The joined states cannot say whose is unreadable: one at a time, it is named.
        singles = [self.lookup(plan, [key], at) for key in keys]
        return LookupResult(
            [row for single in singles for row in single.rows],
            [position for single in singles for position in single.positions],
            singles[0].costs,
        )

    def close(self) -> None:
        """See OnlineStore."""
        self._database.close()

    def _read(
        self, plan: FeaturePlan, keys: Sequence[Mapping[str, object]]
    ) -> tuple[_PlanLookup, list[list[PackedKey]], StatesRead]:
        """The plan's lookup, the packed keys of each of its groups, and their states."""
        lookup = self._lookups.get(plan.digest)
        if lookup is None:
            lookup = self._lookups[plan.digest] = _PlanLookup(self._database, plan)
        packed_keys = lookup.pack(keys)
        return lookup, packed_keys, lookup.read(packed_keys)

    def _unreadable(self, error: UnreadableState, key: Mapping[str, object]) -> Unavailable:
        entity = ", ".join(f"{name}={key[name]!r}" for name in error.view.keys)
        cause = error.__cause__
        return Unavailable(
            f"the online state of {entity} in view {error.view.name!r} is unreadable:"
            f" {type(cause).__name__}: {cause}",
            where=self._database.where,
            remedy="Stop headrace, delete the online store, and run headrace build, which fills it again.",
        )

    def _tiles_of(self, view: WindowedView) -> Tiles:
        if view.digest not in self._tiles:
            self._tiles[view.digest] = Tiles(view)
        return self._tiles[view.digest]

    def _packer(self, view: StoredView, rows: pa.Table) -> Callable[[Key], PackedKey]:
        """Packs the keys of the rows, which must have their entity's types."""
        keys = _keys_of(self._database, view)
        keys.check(view, rows)
        return keys.packer()

    @contextmanager
    def _writing(self, *views: StoredView) -> Iterator[None]:
        try:
            with self._database.writing(views):
                yield
        except MissingView as error:
            raise _missing_view(next(view for view in views if view.digest == error.digest)) from error

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
        leads = {p: lead for p, lead in leads_of(current).items() if p not in moves}
        leads |= {p: lead for p, lead in leads_of(position).items() if p in moves}
        return current.with_offsets(moves).with_leads(leads)


class _PlanLookup:
    """Looks up one plan in one read."""

    def __init__(self, database: StateDatabase, plan: FeaturePlan) -> None:
        readers = readers_of(plan)
        groups: dict[KeySchema, list[StoredView]] = {}
        # Name and reader of each view in the plan's order, and the group and the column of its states.
        self._readers: list[tuple[str, ViewReader, int, int]] = []
        for reader in readers:
            keys = _keys_of(database, reader.view)
            views = groups.setdefault(keys, [])
            self._readers.append((reader.view.name, reader, list(groups).index(keys), len(views)))
            views.append(reader.view)
        self._packers = [_packer_of(keys) for keys in groups]
        self._read = database.reader([EntityGroup(keys, views) for keys, views in groups.items()])

    def drop_known_rows(self, now: int) -> None:
        """See OnlineStore."""
        for _, reader, _, _ in self._readers:
            if isinstance(reader, WindowedReader):
                reader.drop_known_rows(now)

    def pack(self, keys: Sequence[Mapping[str, object]]) -> list[list[PackedKey]]:
        """The packed keys of these entities for each group."""
        return [pack(keys) for pack in self._packers]

    def read(self, packed_keys: Sequence[Sequence[PackedKey]]) -> StatesRead:
        """The states of these entities."""
        if not self._readers:  # every feature of the plan is computed from the request
            return StatesRead([], None)
        return self._read(packed_keys)

    def values(
        self, count: int, packed_keys: Sequence[Sequence[PackedKey]], read: StatesRead, at: int
    ) -> LookupResult:
        """See OnlineStore.lookup. Raises UnreadableState as ViewReader.read."""
        rows: list[list[object]] = []
        positions: list[dict[str, ServedPosition]] = []
        costs: dict[str, ViewCost] = {}
        if not self._readers:
            rows, positions = [[] for _ in range(count)], [{} for _ in range(count)]
        started = perf_counter()
        for name, reader, group, column in self._readers:
            states = read.states[group][column]
            filled = None if read.positions is None else read.positions[group][column]
            view_rows, view_positions = reader.read(states, packed_keys[group], filled, at)
            if rows:
                for row, values, served, position in zip(
                    rows, view_rows, positions, view_positions, strict=True
                ):
                    row += values
                    served[name] = position
            else:
                rows, positions = view_rows, [{name: position} for position in view_positions]
            ended = perf_counter()
            costs[name] = ViewCost(ended - started, len(states))
            started = ended
        return LookupResult(rows, positions, costs)


def _packer_of(schema: KeySchema) -> Callable[[Sequence[Mapping[str, object]]], list[PackedKey]]:
    """A function that packs the keys of entities."""
    names, pack = tuple(name for name, _ in schema.columns), schema.packer()
    if schema.kind == "int64":
        (only,) = names
        return lambda keys: [key[only] for key in keys]  # type: ignore[misc]  # what `pack` makes of a number
    return lambda keys: [pack(tuple([key[name] for name in names])) for key in keys]


def _merge_pushed(
    states: Iterable[PackedState], pushed: dict[PackedKey, list[Entry]], view: AsOfView, now: int
) -> Iterator[PackedState]:
    """The states, with the pushed entries of these and of other entities."""
    for key, state in states:
        entries = merge_entries(pushed.pop(key), unpack_entries(state), view, now) if key in pushed else []
        yield key, pack_entries(entries) if entries else state
    for key, alone in pushed.items():
        if entries := merge_entries(alone, [], view, now):
            yield key, pack_entries(entries)


def _keys_of(database: StateDatabase, view: StoredView) -> KeySchema:
    keys = database.keys_of(view)
    if keys is None:
        raise _missing_view(view)
    return keys


def _lacking_key(view: StoredView, given: Mapping[str, object]) -> CallError:
    lacks = ", ".join(repr(name) for name in view.keys if name not in given)
    return CallError(
        f"the values of view {view.name!r} belong to {', '.join(view.keys)}, and {lacks} is not given",
        remedy="Name every join key, for each entity whose values are to be removed. Nothing was removed.",
    )


def _missing_view(view: StoredView) -> CallError:
    return CallError(
        f"view {view.name!r} ({view.digest}) is not in the online store", remedy="headrace build fills it."
    )
