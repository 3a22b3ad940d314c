"""The online store for Feast's own API: the state that Headrace keeps and serves from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
from feast import Entity, FeatureView, OnDemandFeatureView, StreamFeatureView
from feast.feature_view_projection import FeatureViewProjection
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from pydantic import StrictStr

from headrace.features import online
from headrace.features.feast.frames import to_view_rows, utc
from headrace.features.feast.repository import open_repository, settings_of
from headrace.features.feast.types import value_type
from headrace.features.feast.versions import check_entities, has_entities, require_state
from headrace.features.feast.views import (
    add_key_dtypes,
    compile_entity_keys,
    compile_stored_view,
)
from headrace.features.online import RowPosition
from headrace.features.plan import AsOfView, FeaturePlan, FeatureRef
from headrace.kernel.errors import CallError
from headrace.kernel.position import SnapshotPosition
from headrace.kernel.time import from_micros, now_micros

__all__ = ["HeadraceOnlineStore", "HeadraceOnlineStoreConfig", "is_windowed", "refuse_windowed"]

_Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]


def _without_nulls(value: Any, dtype: str) -> Any:
    """The value, with NaN for null among floats: Feast's lists have no nulls, and it would write 0."""
    if dtype != "list[float64]" or value is None:
        return value
    return [math.nan if item is None else item for item in value]


class HeadraceOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Only the type, because the offline store's configuration names the project."""

    type: StrictStr = "headrace.features.feast.online_store.HeadraceOnlineStore"


def is_windowed(view: FeatureView) -> bool:
    """Whether a view of the registry is windowed."""
    return isinstance(view, StreamFeatureView) and bool(view.aggregations)


def refuse_windowed(view: FeatureView) -> None:
    """Raises CallError if the view is windowed: its values come from events, and cannot be written."""
    if is_windowed(view):
        raise CallError(
            f"values cannot be written to {view.name!r}: it is a windowed view, made from events",
            remedy="Send the event itself: headrace send, or POST it to the collector.",
        )


class HeadraceOnlineStore(OnlineStore):  # type: ignore[misc]
    """Reads the current values of as-of and windowed views; writes as-of views."""

    _versioned_read_supported = True

    def __init__(self) -> None:
        self._store: online.OnlineStore | None = None
        self._entities: dict[str, Entity] = {}
        self._plans: dict[str, FeaturePlan] = {}

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """For each key, the current values and their time; (None, None) if it has none.

        Raises:
            Unavailable: the view was never filled, or an entity is broken.
        """
        plan, at = self._plan(config, table), now_micros()
        view = plan.stored[0]
        if table.projection.version_tag is not None:
            require_state(self._open_store(config), view, table.projection)
        keys = [
            {
                name: feast_value_type_to_python_type(value)
                for name, value in zip(key.join_keys, key.entity_values, strict=True)
            }
            for key in entity_keys
        ]
        result = self._open_store(config).lookup(plan, keys, at)
        columns = {
            field.name: python_values_to_proto_values(
                [_without_nulls(row[index], field.dtype) for row in result.rows], value_type(field.dtype)
            )
            for index, field in enumerate(view.features)
            if requested_features is None or field.name in requested_features
        }
        read: list[tuple[datetime | None, dict[str, Value] | None]] = []
        for index, positions in enumerate(result.positions):
            position = positions.get(view.name)
            time = position.time if isinstance(position, RowPosition) else at
            if time is None or all(value is None for value in result.rows[index]):
                read.append((None, None))
            else:
                read.append((from_micros(time), {name: column[index] for name, column in columns.items()}))
        return read

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[_Row], progress: Callable[[int], Any] | None
    ) -> None:
        """Writes Feast's rows of an as-of view; an older row never hides a newer one.

        Raises:
            CallError: the view is windowed.
        """
        refuse_windowed(table)
        view = self._plan(config, table).as_of[0]
        rows = []
        for key, values, time, _ in data:
            row: dict[str, Any] = dict(
                zip(key.join_keys, map(feast_value_type_to_python_type, key.entity_values), strict=True)
            )
            row |= {f.name: feast_value_type_to_python_type(values[f.name]) for f in view.features}
            rows.append(row | {view.time: utc(time)})
        self.push(config, table, pl.DataFrame(rows, infer_schema_length=None))
        if progress is not None:
            progress(len(rows))

    def load(self, config: RepoConfig, table: FeatureView, rows: pl.DataFrame, snapshot: int) -> int:
        """Replaces an as-of view's state by a snapshot of its table. Returns the number of entities."""
        store, plan = self._open_store(config), self._plan(config, table)
        store.prepare(plan)  # `up` may have dropped the view since
        view = plan.as_of[0]
        return store.load(view, rows.to_arrow(), SnapshotPosition(view.table, snapshot))

    def push(self, config: RepoConfig, table: FeatureView, rows: pl.DataFrame) -> int:
        """Adds rows that are in no snapshot to an as-of view. Returns the number of entities that got rows.

        Raises:
            CallError: the rows do not have the view's columns and types, or a row has no key or time.
        """
        store, plan = self._open_store(config), self._plan(config, table)
        store.prepare(plan)  # `up` may have dropped the view since
        view, keys = plan.as_of[0], {entity.join_key: entity.dtype for entity in plan.entities}
        return store.push(view, to_view_rows(rows, view, keys).to_arrow())

    def update(self, config: RepoConfig, *changes: Any, **more: Any) -> None:
        """Does nothing: views are added to the state when a plan or a read needs them."""

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Removes the state of these views."""
        names = {view.name for view in tables}
        store = self._open_store(config)
        for view in store.views():
            if view.name in names:
                store.drop(view.digest)

    def as_of(self, config: RepoConfig, table: FeatureView) -> AsOfView:
        """The plan's view for an as-of view of the registry."""
        return self._plan(config, table).as_of[0]

    def _open_store(self, config: RepoConfig) -> online.OnlineStore:
        if self._store is None:
            settings = settings_of(config)
            settings.make_state()
            self._store = online.open(settings)
        return self._store

    def _plan(self, config: RepoConfig, table: FeatureView) -> FeaturePlan:
        """A plan of this view alone, prepared in the store. Raises CallError for an on-demand view, which Feast
        passes only if its values are to be written."""
        if isinstance(table, OnDemandFeatureView):
            raise CallError(
                f"on-demand view {table.name!r}: write_to_online_store is not supported",
                remedy="Remove it: the value is computed when it is requested.",
            )
        if not has_entities(table, self._entities):  # read again after a build has changed one
            with open_repository(Path(config.repo_path or "."), config) as repository:
                entities = repository.list_entities()
            self._entities = {entity.name: entity for entity in entities}
            check_entities(table, self._entities)
        where = f"Feast project {config.project}"
        taken = table, FeatureViewProjection.from_feature_view_definition(table)
        entities = compile_entity_keys([taken], self._entities, None, lambda _: where)
        view = add_key_dtypes(compile_stored_view(table, self._entities, where), entities)
        if view.digest not in self._plans:
            self._plans[view.digest] = FeaturePlan(
                model="",
                entities=entities,
                views=(view,),
                features=tuple(FeatureRef(view.name, field.name, field.dtype) for field in view.features),
            )
            self._open_store(config).prepare(self._plans[view.digest])
        return self._plans[view.digest]
