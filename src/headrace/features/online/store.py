"""OnlineStore: the port, and `open`, the only function that chooses an implementation."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from msgspec import Struct

from headrace.config.settings import Settings
from headrace.features.plan import AsOfView, FeaturePlan, StoredView, WindowedView
from headrace.kernel.errors import ProjectError, Unavailable
from headrace.kernel.extras import EXTRAS, describe_missing
from headrace.kernel.position import LogPosition, Position, SnapshotPosition
from headrace.kernel.secrets import clean_text

if TYPE_CHECKING:
    import pyarrow as pa

    from headrace.features.online.database import StateDatabase
    from headrace.features.online.keys import PackedState

__all__ = [
    "LookupResult",
    "OnlineStore",
    "RowPosition",
    "ServedPosition",
    "StoreUnavailable",
    "StreamPosition",
    "ViewCost",
    "filled_views",
    "open",
]


_DATABASES = {
    "sqlite": "sqlite",
    "postgresql": "postgres",
    "postgres": "postgres",
    "redis": "redis",
    "rediss": "redis",
    "unix": "redis",
}
"""Scheme of an address → the module of this package whose `open_database` opens the store."""


class StreamPosition(Struct, frozen=True, gc=False, tag_field="kind", tag="stream"):
    """The position of a windowed view's value, which is computed from exactly the entity's events before it.

    Attributes:
        offsets: log partition → the first offset that the value does not include.
    """

    offsets: dict[int, int]


class RowPosition(Struct, frozen=True, gc=False, tag_field="kind", tag="row"):
    """The position of an as-of view's value: the row that it comes from, if there is one.

    Attributes:
        snapshot: the snapshot of the view's table that the row was read from; for a missing row, the snapshot
            that
            was loaded last; None if no snapshot was loaded or the row was pushed.
        time: the row's feature time, microseconds; None if there is no row.
    """

    snapshot: int | None
    time: int | None


ServedPosition = StreamPosition | RowPosition


class ViewCost(Struct, frozen=True, gc=False):
    """What one view cost in a lookup.

    Attributes:
        seconds: the time to compute its values. The read of all views together is one round trip, which is not
            part of it.
        bytes: the size of the states that its values come from.
    """

    seconds: float
    bytes: int


class LookupResult(NamedTuple):
    """The values of a lookup.

    Attributes:
        rows: for each key, the values of `plan.looked_up` in that order; None is missing.
        positions: for each key, view name → the position of its values.
        costs: view name → what it cost, of every view that was read.
    """

    rows: list[list[Any]]
    positions: list[dict[str, ServedPosition]]
    costs: dict[str, ViewCost]


class StoreUnavailable(Unavailable):
    """The store cannot be reached or does not answer, so nothing is known about any entity."""


class OnlineStore(Protocol):
    """The store of current feature values. Several threads may use one instance."""

    def prepare(self, plan: FeaturePlan) -> None:
        """Adds the plan's stored views. Idempotent."""

    def views(self) -> list[StoredView]:
        """Every view that was prepared and not dropped."""

    def drop(self, digest: str) -> None:
        """Removes the view with this digest and its state, if there is one."""

    def position(self, view: StoredView) -> Position | None:
        """The position that the view's state has reached; None if the view has not been filled."""

    def positions(self) -> dict[str, Position]:
        """The digest of each view that has been filled → its position."""

    def load(self, view: AsOfView, rows: pa.Table, position: SnapshotPosition) -> int:
        """Replaces the view's state by a snapshot of its table. Returns the snapshot's number of entities.

        An entity that is not in the snapshot loses its values, and an entity whose newest row is not in it gets
        the values of its row before. Pushed rows stay, in addition to the snapshot's. Readers see the old state
        or the new one. `rows` is the whole table: the view's keys, time and features.

        Raises:
            ProjectError: a key's column does not have its entity's type.
        """

    def load_states(self, view: AsOfView, states: Sequence[PackedState], position: SnapshotPosition) -> int:
        """As `load`, from the states of all entities that are already packed (batches.pack_rows)."""

    def push(self, view: AsOfView, rows: pa.Table) -> int:
        """Adds rows that are in no snapshot. Returns the number of entities that got rows.

        A row never hides a newer one. A row of equal time is replaced, until the next snapshot is loaded.
        The view's position does not change; a view that is still empty gets snapshot 0, so that the next
        fill reads the table.

        Raises:
            ProjectError: a key's column does not have its entity's type.
        """

    def fill(self, view: WindowedView, rows: pa.Table, position: LogPosition) -> int:
        """Replaces the view's state by that of `rows`, its table up to `position`. Returns the number of
        entities.

        `rows` has the view's keys, time and columns. Readers see the new state only when it is complete. An
        entity whose state cannot be computed is broken (see `apply`).

        Raises:
            ProjectError: a key's column does not have its entity's type.
        """

    def forget(self, entities: Sequence[Mapping[str, object]]) -> int:
        """Removes the values of these entities from every view: one transaction.

        The next fill or load restores what the log and the tables still hold of them, so remove it
        there first. New events of an entity count from then on.

        Args:
            entities: the values of join keys, of their types. Views with other join keys, or with none, do not
                change. If views have a join key in two types, as versions of a view may, 7 also removes the
                values of "7", and the reverse.

        Returns:
            How many values of entities in views were removed.

        Raises:
            CallError: a view has one of these join keys and another one that is not given, or a value has
                a type that its key has in no view; nothing was removed.
        """

    def drop_known_rows(self) -> None:
        """Drops the rows that lookups of this process have kept in memory for a minute.

        Lookups do so too. A process calls it so that a forgotten entity also leaves the memory of a store that
        nobody asks anything of.
        """

    def count_broken(self, view: WindowedView) -> int:
        """How many entities of the view are broken. A fill repairs them."""

    def apply(
        self,
        views: Sequence[WindowedView],
        rows: pa.Table,
        position: LogPosition,
        *,
        after: LogPosition,
    ) -> None:
        """Adds rows to the state of views at the position `after`, and moves the views to `position` in the
        log partitions in which the two differ: one transaction.

        Other processes may have moved the views in other log partitions meanwhile. An entity is broken from
        then on if its state cannot be updated with its rows: the store logs it, and a lookup of it raises an
        error. Other entities are not affected.

        Args:
            views: filled views of one table.
            rows: the rows of the views' table from the events between `after` and `position`: keys, time
                and columns.
            position: the views' position afterwards.
            after: the views' position now.

        Raises:
            Conflict: a view has another position in one of those log partitions; nothing was written.
        """

    def end_leads(self, views: Sequence[WindowedView], at: LogPosition, partitions: Collection[int]) -> None:
        """Removes the leads that the views have at the position `at` in these log partitions, because the
        table has their events: one transaction. A lead that another process has changed meanwhile stays.

        Raises:
            CallError: a view is not in the store; nothing was written.
        """

    def lookup(self, plan: FeaturePlan, keys: Sequence[Mapping[str, object]], at: int) -> LookupResult:
        """The values of the plan's stored features for each key, at `at` (microseconds, about now).

        Raises:
            CallError: the plan was not prepared in this store.
            StoreUnavailable: the store does not answer.
            Unavailable: a view is not filled yet, or an entity is broken.
        """

    def close(self) -> None:
        """Closes the connections."""


def open(settings: Settings) -> OnlineStore:  # noqa: A001
    """The project's online store. It need not be reachable yet.

    Raises:
        ProjectError: the setting `online` is not the address of an online store, or has a password in it.
        Unavailable: the file is locked, or a package is not installed.
    """
    from headrace.features.online.entity_store import EntityStore

    return EntityStore(_open_database(settings))


def filled_views(settings: Settings) -> list[str]:
    """The digests of the views in the project's online store that are filled, sorted; that of an as-of
    view is followed by its snapshot. Loads no engine.

    Raises:
        ProjectError: as `open`.
        Unavailable: as `open`, or the store cannot be reached.
    """
    with closing(_open_database(settings)) as database:
        return sorted(
            f"{digest} {position.snapshot_id}" if isinstance(position, SnapshotPosition) else digest
            for digest, position in database.positions().items()
        )


def _open_database(settings: Settings) -> StateDatabase:
    url = settings.online.url
    scheme = url.partition("://")[0]
    if scheme not in _DATABASES:
        raise ProjectError(
            f"{clean_text(url)!r} is not the address of an online store",
            where="setting online",
            remedy=f"Use sqlite, or an address whose scheme is one of: {', '.join(_DATABASES)}.",
        )
    try:
        module = importlib.import_module(f"headrace.features.online.{_DATABASES[scheme]}")
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        raise describe_missing(error.name, f"an online store at {scheme}://") from error
    # The file in the project's own state is the project's, whatever its name.
    project = None if settings.online.address == "sqlite" else settings.project
    database: StateDatabase = module.open_database(url, project)
    return database
