"""The offline store behind Feast's own API: tables of the lake, joined by our engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
from feast import FeatureView, OnDemandFeatureView
from feast.data_source import DataSource
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from pydantic import StrictStr

from headrace import lake
from headrace.features.feast.repository import settings_of
from headrace.features.feast.views import entity_key, on_demand, request_fields, stored
from headrace.features.plan import FeatureRef, Plan
from headrace.features.point_in_time import MOMENT, join
from headrace.kernel.errors import CallError

__all__ = ["HeadraceOfflineStore", "HeadraceOfflineStoreConfig", "HeadraceRetrievalJob", "reader"]


class HeadraceOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Which project the plugins work for."""

    type: StrictStr = "headrace.features.feast.offline_store.HeadraceOfflineStore"
    root: StrictStr
    profile: StrictStr
    state: StrictStr


class HeadraceRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """Rows that are computed when they are asked for; on-demand views are already in them."""

    def __init__(
        self, rows: Callable[[], pa.Table], full_feature_names: bool, metadata: RetrievalMetadata | None
    ) -> None:
        self._rows = rows
        self._full_feature_names = full_feature_names
        self._metadata = metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._rows()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._rows().to_pandas()

    @property
    def full_feature_names(self) -> bool:
        """Whether features are named view__feature."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """None that Feast would still have to run."""
        return []

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked for."""
        return self._metadata


class HeadraceOfflineStore(OfflineStore):  # type: ignore[misc]
    """Reads TableSources. A row's own features are never after its moment, as Feast has it: a
    feature time at the moment itself counts (training sets are stricter, see docs/guide/feast.md)."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **unused: Any,
    ) -> RetrievalJob:
        """Each row of `entity_df`, in its order, with the features as they were known at its time.

        Raises:
            CallError: `entity_df` is no DataFrame.
        """
        if not isinstance(entity_df, pd.DataFrame):
            raise CallError(
                "get_historical_features needs a DataFrame of entities and times",
                remedy="Read the labels from a table first: headrace.project().table(...).",
            )
        entities = entity_df
        plan = _plan(feature_views, feature_refs, registry, project)
        read = reader(config)

        def rows() -> pa.Table:
            time = infer_event_timestamp_from_entity_df(dict(entities.dtypes))
            labels = pl.from_pandas(entities).rename({time: MOMENT})
            if labels.schema[MOMENT].time_zone is None:  # type: ignore[attr-defined]
                labels = labels.with_columns(pl.col(MOMENT).dt.replace_time_zone("UTC"))
            made = join(labels, plan, read).rename({MOMENT: time})
            if not full_feature_names:
                made = made.rename({one.column: one.name for one in plan.features})
            return made.to_arrow()

        keys = [*(key.join_key for key in plan.entities), *(field.name for field in plan.request)]
        return HeadraceRetrievalJob(rows, full_feature_names, RetrievalMetadata(feature_refs, keys))

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The newest row an entity between two times."""
        columns = [*join_key_columns, *feature_name_columns, timestamp_field]
        pulled = _between(reader(config)(data_source.name), timestamp_field, start_date, end_date)

        def rows() -> pa.Table:
            ordered = pulled.select(columns).sort(timestamp_field)
            return ordered.unique(join_key_columns, keep="last", maintain_order=True).collect().to_arrow()

        return HeadraceRetrievalJob(rows, False, None)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row between two times."""
        columns = [*join_key_columns, *feature_name_columns, timestamp_field]
        pulled = _between(reader(config)(data_source.name), timestamp_field, start_date, end_date)
        return HeadraceRetrievalJob(lambda: pulled.select(columns).collect().to_arrow(), False, None)


def reader(config: RepoConfig) -> Callable[[str], pl.LazyFrame]:
    """From the name of a table to its rows now; of a topic's own table, the good ones."""
    opened = lake.open(settings_of(config))

    def read(name: str) -> pl.LazyFrame:
        frame = opened.table(name).scan()
        return frame.filter("_valid") if "_valid" in frame.collect_schema() else frame

    return read


def _between(frame: pl.LazyFrame, time: str, start: datetime | None, end: datetime | None) -> pl.LazyFrame:
    if start is not None:
        frame = frame.filter(pl.col(time) >= _aware(start))
    return frame if end is None else frame.filter(pl.col(time) <= _aware(end))


def _aware(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _plan(
    views: Sequence[FeatureView], references: Sequence[str], registry: BaseRegistry, project: str
) -> Plan:
    """The plan of what Feast was asked for: views from its registry, features in the order asked."""
    entities = {one.name: one for one in registry.list_entities(project, allow_cache=True)}
    asked = dict.fromkeys(tuple(one.split(":", 1)) for one in references)
    computed = [
        one
        for one in registry.list_on_demand_feature_views(project, allow_cache=True)
        if any(one.name == view for view, _ in asked)
    ]
    where = f"Feast project {project}"
    made = [
        *(stored(one, entities, where) for one in views),
        *(on_demand(one, where, registered=True) for one in computed),
    ]
    dtypes = {(one.name, field.name): field.dtype for one in made for field in one.features}
    needed = dict.fromkeys(name for one in views for name in one.entities)
    return Plan(
        model="",
        entities=tuple(entity_key(entities[name], None, where) for name in needed),
        views=tuple(made),
        features=tuple(FeatureRef(view, name, dtypes[view, name]) for view, name in asked),
        request=request_fields(computed, where),
    )
