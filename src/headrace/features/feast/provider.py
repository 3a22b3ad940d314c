"""The provider for Feast's own API: materialize and push write directly to Headrace's state."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import polars as pl
from feast import FeatureService, FeatureView
from feast.feature_view import DUMMY_ENTITY_FIELD, DUMMY_ENTITY_NAME
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.passthrough_provider import PassthroughProvider
from feast.infra.registry.base_registry import BaseRegistry
from feast.online_response import OnlineResponse
from feast.repo_config import RepoConfig
from msgspec.structs import replace

from headrace import lake
from headrace.features.feast.entity_rows import check_answer, convert_entity_rows
from headrace.features.feast.frames import to_polars, utc
from headrace.features.feast.online_store import HeadraceOnlineStore, is_windowed, refuse_windowed
from headrace.features.feast.repository import settings_of
from headrace.features.feast.versions import check_versions, names_version
from headrace.features.offline.point_in_time import as_of_rows

__all__ = ["HeadraceProvider"]

_log = logging.getLogger(__name__)
_NOW = timedelta(seconds=10)  # Feast passes the moment of the call, which is over when a view's turn comes


class HeadraceProvider(PassthroughProvider):  # type: ignore[misc]
    """Feast's usual provider, except for the steps that it would do row by row."""

    def __init__(self, config: RepoConfig) -> None:
        super().__init__(config)
        self._state = HeadraceOnlineStore()

    @property
    def online_store(self) -> HeadraceOnlineStore:
        """Headrace's online store."""
        return self._state

    def update_infra(self, *changes: Any, **more: Any) -> None:
        """Does nothing: views are added to the state when a plan or a read needs them."""

    def get_online_features(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        entity_rows: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **more: Any,
    ) -> OnlineResponse:
        """The current values, as Feast reads and returns them.

        Raises:
            CallError: a key of a row is null, or not of the type of its entity; a field of the request is
                missing, null or of another type; or a version of a view cannot be read
                (versions.check_versions).
        """
        parts = convert_entity_rows(registry, project, features, entity_rows, full_feature_names)
        if names_version(features):
            check_versions(registry, project, features, full_feature_names)
        read = super().get_online_features
        first, *others = [
            read(config, features, part, registry, project, full_feature_names, **more) for part in parts
        ]
        for other in others:
            names = list(other.proto.metadata.feature_names.val)
            for name, column in zip(first.proto.metadata.feature_names.val, first.proto.results, strict=True):
                column.MergeFrom(other.proto.results[names.index(name)])
        check_answer(registry, project, features, first, full_feature_names)
        return first

    def get_historical_features(
        self,
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        registry: BaseRegistry,
        project: str,
        *args: Any,
        **more: Any,
    ) -> RetrievalJob:
        """The job of Headrace's offline store.

        Feast has taken the entity from each view without keys, also in the objects that its registry keeps for
        later calls: get_online_features would then miss keys of such a view. They get it back.
        """
        job = super().get_historical_features(
            config, feature_views, feature_refs, entity_df, registry, project, *args, **more
        )
        for view in feature_views:
            kept = registry.get_any_feature_view(view.name, project, allow_cache=True)
            for taken in (view, kept):
                if isinstance(taken, FeatureView) and not taken.entities:
                    taken.entities, taken.entity_columns = [DUMMY_ENTITY_NAME], [DUMMY_ENTITY_FIELD]
        return job

    def materialize_single_feature_view(
        self,
        config: Any,
        feature_view: FeatureView,
        start_date: datetime,
        end_date: datetime,
        **unused: Any,
    ) -> None:
        """Writes an as-of view's newest rows of these dates. Skips windowed views, which ingest keeps up to
        date.

        Until now, or later, is the whole table, rows of the future included, because the state is then that of
        a snapshot. Until a time in the past, the rows in between are added as pushed ones are.
        """
        if is_windowed(feature_view):
            _log.info(
                "%s is a windowed view, which ingest keeps up to date: nothing to materialize",
                feature_view.name,
            )
            return
        view = self.online_store.as_of(config, feature_view)
        version = feature_view.current_version_number
        if version is not None:  # errors name it
            view = replace(view, name=f"{view.name}@v{version}")
        tables = lake.VisibleTables(lake.open(settings_of(config)))
        head = tables.snapshot(view.table)
        if head is None:
            return
        rows = as_of_rows(view, tables.table(view.table).scan(head.id))
        if utc(end_date) >= datetime.now(UTC) - _NOW:
            self.online_store.load(config, feature_view, rows.collect(), head.id)
            return
        between = pl.col(view.time).is_between(utc(start_date), utc(end_date))
        self.online_store.push(config, feature_view, rows.filter(between).collect())

    def ingest_df(self, feature_view: FeatureView, df: pd.DataFrame, field_mapping: Any = None) -> None:
        """Writes the rows of `push` and `write_to_online_store`.

        Raises:
            CallError: the view is windowed, or the rows do not have its columns and types.
        """
        refuse_windowed(feature_view)
        rows = to_polars(df, f"the rows for feature view {feature_view.name!r}")
        self.online_store.push(self.repo_config, feature_view, rows)
