"""Online: the current feature values, by entity. The port, and `open`, its only wiring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from msgspec import Struct

from headrace.features.plan import AsOfView, FeaturePlan, StoredView, WindowedView
from headrace.kernel.addresses import path_of
from headrace.kernel.errors import ProjectError
from headrace.kernel.position import LogPosition, Position, SnapshotPosition

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["LookupResult", "OnlineStore", "RowPosition", "ServedPosition", "StreamPosition", "open"]


class StreamPosition(Struct, frozen=True, tag_field="kind", tag="stream"):
    """Of a value of a windowed view: it is made of exactly the events of its entity before these.

    Attributes:
        offsets: log partition → the first offset that is not in it.
    """

    offsets: dict[int, int]


class RowPosition(Struct, frozen=True, tag_field="kind", tag="row"):
    """Of a value of an as-of view: the row it came from, or that there was none.

    Attributes:
        snapshot: the snapshot of the view's table that the row was read at; of a missing row, the
            last one that was loaded; None: none was, or the row was pushed and is in no snapshot.
        time: the row's feature time, microseconds; None: there was no row.
    """

    snapshot: int | None
    time: int | None


ServedPosition = StreamPosition | RowPosition


class LookupResult(NamedTuple):
    """What a lookup found.

    Attributes:
        rows: for each key, the values of `plan.looked_up` in that order; None is missing.
        positions: for each key, view name → the position its values stand for.
    """

    rows: list[list[Any]]
    positions: list[dict[str, ServedPosition]]


class OnlineStore(Protocol):
    """Where current feature values are kept. One instance may be used by several threads."""

    def prepare(self, plan: FeaturePlan) -> None:
        """Makes room for the plan's stored views. Idempotent."""

    def views(self) -> list[StoredView]:
        """Every view that was prepared and not dropped."""

    def drop(self, digest: str) -> None:
        """Takes a view and its state away; nothing where there is none of this digest."""

    def position(self, view: StoredView) -> Position | None:
        """How far the view's state has come; None: it has not been filled."""

    def load(self, view: AsOfView, rows: pa.Table, position: SnapshotPosition) -> int:
        """Makes the view what a snapshot of its table says; returns how many entities that has.

        An entity that the snapshot lacks has no values any more, and one whose newest row it lacks has
        those of the row before. Only pushed rows stay: each is one row more beside the snapshot's. Readers
        see the view as it was or as it is then. `rows` has the view's keys, time and features: every row
        of the table.
        """

    def push(self, view: AsOfView, rows: pa.Table) -> int:
        """Adds rows that are in no snapshot; returns how many entities got any.

        A row never hides a newer one. One of the same time takes the other's place, until a snapshot is
        loaded. The view's position stays where it is; of one that holds nothing yet it becomes a snapshot
        0, so that the next fill reads the table.
        """

    def fill(self, view: WindowedView, rows: pa.Table, position: LogPosition) -> int:
        """Makes the view's state anew from `rows`: its table up to `position`. Returns how many entities.

        `rows` has the view's keys, time and columns. Nothing is seen before it is complete. An entity
        whose state cannot be made is broken (see `apply`).
        """

    def broken(self, view: WindowedView) -> int:
        """How many entities of the view are broken, until a fill makes it anew."""

    def apply(
        self,
        views: Sequence[WindowedView],
        rows: pa.Table,
        position: LogPosition,
        *,
        after: LogPosition,
    ) -> None:
        """Adds rows to the state of views that stand at `after`, and moves them to `position`, in the log
        partitions in which the two differ: one transaction.

        Others may have moved the views in other log partitions meanwhile. An entity whose state cannot
        take its rows is broken from then on: that is logged, and a lookup of it raises. It holds up no
        other.

        Args:
            views: filled views of one table.
            rows: what the events between `after` and `position` became in the views' table: keys,
                time and columns.
            position: where the views stand afterwards.
            after: where they stand now.

        Raises:
            Conflict: a view stands elsewhere in one of those: nothing was written.
        """

    def lookup(self, plan: FeaturePlan, keys: Sequence[Mapping[str, object]], at: int) -> LookupResult:
        """The values of the plan's stored features for each key, at `at` (microseconds, about now).

        Raises:
            CallError: the plan was not prepared here.
            Unavailable: a view was not filled yet, or an entity is broken.
        """

    def close(self) -> None:
        """Ends its connections."""


def open(url: str) -> OnlineStore:  # noqa: A001
    """The online store at `url`: `sqlite:///file`.

    Raises:
        ProjectError: there is no such kind of store.
    """
    if url.startswith("sqlite://"):
        from headrace.features.online.sqlite import SqliteStore

        return SqliteStore(path_of(url))
    raise ProjectError(
        f"there is no online store at {url!r}", remedy="Use sqlite:///absolute/path/of/a/file.db."
    )
