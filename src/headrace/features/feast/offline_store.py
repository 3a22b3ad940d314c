"""The offline store for Feast's own API: joins tables of the lake by Headrace's engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
from feast import FeatureView, OnDemandFeatureView
from feast.data_source import DataSource
from feast.feature_logging import LOG_TIMESTAMP_FIELD, LoggingConfig, LoggingSource
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.utils import (
    _get_requested_on_demand_feature_views,
    _parse_feature_ref,
    compute_non_entity_date_range,
)
from msgspec.structs import replace
from pydantic import StrictStr

from headrace import lake
from headrace.config.settings import Settings
from headrace.features.feast.frames import to_instants, to_pandas, to_polars, utc
from headrace.features.feast.repository import settings_of
from headrace.features.feast.saved import append_logs, is_dataset, write_dataset
from headrace.features.feast.versions import check_entities
from headrace.features.feast.views import (
    compile_entity_keys,
    compile_on_demand_view,
    compile_stored_view,
    rename_view,
    request_fields,
)
from headrace.features.offline.point_in_time import MOMENT, join
from headrace.features.plan import AsOfView, FeaturePlan, FeatureRef
from headrace.features.values.columns import POLARS
from headrace.kernel.errors import CallError

__all__ = ["HeadraceOfflineStore", "HeadraceOfflineStoreConfig", "HeadraceRetrievalJob", "reader"]


class HeadraceOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """The configuration of the plugins: the project that they work for."""

    type: StrictStr = "headrace.features.feast.offline_store.HeadraceOfflineStore"
    root: StrictStr
    profile: StrictStr
    state: StrictStr


class HeadraceRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """A job that computes its rows when Feast asks for them, on-demand features included."""

    def __init__(
        self,
        rows: Callable[[], pa.Table],
        full_feature_names: bool,
        metadata: RetrievalMetadata | None,
        settings: Settings,
    ) -> None:
        self._rows = rows
        self._settings = settings
        self._full_feature_names = full_feature_names
        self._metadata = metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._rows()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return to_pandas(self._rows())

    def to_df(self, validation_reference: Any = None, timeout: int | None = None) -> pd.DataFrame:
        """The rows as pandas, as Feast's own method has them, but no whole number loses digits (to_pandas)."""
        return to_pandas(self.to_arrow(validation_reference=validation_reference, timeout=timeout))

    @property
    def full_feature_names(self) -> bool:
        """Whether features are named view__feature."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """Empty, because the rows include their features, and Feast must not compute them again."""
        return []

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """The features and keys of the request."""
        return self._metadata

    def persist(self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Writes the rows to the table of a saved dataset (`saved.SavedDatasetTable`)."""
        write_dataset(lake.open(self._settings), storage, self._rows(), overwrite=allow_overwrite)

    def to_sql(self) -> str:
        """Raises CallError: features are not computed by SQL."""
        raise CallError("features are not computed by SQL", remedy="Use job.to_arrow() or job.to_df().")

    def to_remote_storage(self) -> list[str]:
        """Raises CallError."""
        raise CallError(
            "the export of features to files is not supported", remedy="Write job.to_arrow() to a file."
        )


class HeadraceOfflineStore(OfflineStore):  # type: ignore[misc]
    """Reads TableSources. As Feast defines it, features at a row's moment itself count, and later ones do not
    (training sets are stricter, see docs/guide/feast.md)."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        **unused: Any,
    ) -> RetrievalJob:
        """Each row of `entity_df`, in its order, with the features as they were known at its time.

        Args:
            config, feature_views, feature_refs, registry, project, full_feature_names: see Feast's
                OfflineStore.
            entity_df: keys and times; or SQL over the lake's tables, which selects them; or None for the keys
                and times of the views' own rows between the two dates.
            start_date, end_date: the dates; by default the past as far as the views' ttl, or 30 days.

        Raises:
            CallError: `entity_df` is something else, or None for views of different keys.
        """
        plan = _plan(feature_views, feature_refs, registry, project)
        settings, read = settings_of(config), reader(config)
        if entity_df is None:
            between = compute_non_entity_date_range(feature_views, start_date=start_date, end_date=end_date)
            labels, time = _own_rows(plan, read, *map(utc, between)), MOMENT
        elif isinstance(entity_df, str):
            labels = _select(lake.open(settings), read, entity_df)
            time = infer_event_timestamp_from_entity_df(dict(labels.head(1).to_pandas().dtypes))
        elif isinstance(entity_df, pd.DataFrame):
            time = infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))
            labels = to_polars(entity_df, "entity_df")
        else:
            raise CallError(
                f"entity_df is a {type(entity_df).__name__}", remedy="Give a DataFrame, SQL or None."
            )
        labels = labels.with_columns(to_instants(labels[time], "entity_df")).rename({time: MOMENT})

        def rows() -> pa.Table:
            named = {f.column: f.column if full_feature_names else f.name for f in plan.features}
            _check_names([time, *labels.columns], plan, named)
            features = join(labels, plan, read).rename({**named, MOMENT: time})
            return _with_short_lists(features.to_arrow())

        keys = [*(key.join_key for key in plan.entities), *(field.name for field in plan.request)]
        metadata = RetrievalMetadata(feature_refs, keys, labels[MOMENT].min(), labels[MOMENT].max())
        return HeadraceRetrievalJob(rows, full_feature_names, metadata, settings)

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
        """The newest row of each entity between two times."""
        columns = [*join_key_columns, *feature_name_columns, timestamp_field]
        pulled = _between(reader(config)(data_source.name), timestamp_field, start_date, end_date)

        def rows() -> pa.Table:
            created = [created_timestamp_column] if created_timestamp_column else []
            ordered = pulled.sort(timestamp_field, *created).select(columns)
            newest = ordered.unique(join_key_columns, keep="last", maintain_order=True)
            return (newest if join_key_columns else ordered.tail(1)).collect().to_arrow()

        return HeadraceRetrievalJob(rows, False, None, settings_of(config))

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
        """Every row between two times.

        Of a saved dataset all columns and rows: Feast asks for neither the keys of stream views nor other
        columns of `entity_df`, such as the label, and of a dataset that replaced another one for its times.
        """
        columns = [*join_key_columns, *feature_name_columns, timestamp_field]
        if is_dataset(data_source.name):
            columns = reader(config)(data_source.name).collect_schema().names()
            if timestamp_field != LOG_TIMESTAMP_FIELD:
                start_date = end_date = None
        pulled = _between(reader(config)(data_source.name), timestamp_field, start_date, end_date)

        def rows() -> pa.Table:
            return _with_short_lists(pulled.select(columns).collect().to_arrow())

        return HeadraceRetrievalJob(rows, False, None, settings_of(config))

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Appends rows to a table that is written through Feast alone (`TableSource.of_table`).

        Args:
            config, feature_view, progress: see Feast's OfflineStore.
            table: the rows. Feast has given the columns their names in the view.

        Raises:
            CallError: the table is made by a function, or is a topic's.
        """
        source = feature_view.batch_source
        if not source.is_written_by_feast:
            raise CallError(
                f"rows of feature view {feature_view.name!r} cannot be written to its table through Feast",
                remedy="Send the events that the table is made from, or push to the online store alone.",
            )
        stored = lake.open(settings_of(config)).table(source.name)
        names = {column: source.field_mapping.get(column, column) for column in stored.schema().names}
        structs = pl.col(pl.Struct)  # as text, because no feature has such a type
        texts = pl.when(structs.is_not_null()).then(structs.struct.json_encode())
        rows = pl.DataFrame(table).with_columns(texts)
        rows = rows.select(pl.col(name).alias(column) for column, name in names.items())
        stored.append(rows.to_arrow().cast(stored.schema()))
        if progress is not None:
            progress(len(table))

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """Appends the features that a service has served to a table (`saved.LoggingTable`)."""
        tables, schema = lake.open(settings_of(config)), source.get_schema(registry)
        append_logs(tables, logging_config.destination, data, schema)


def reader(config: RepoConfig) -> Callable[[str], pl.LazyFrame]:
    """A function that reads the rows of a table by its name: of tables that builds make, what readers see at
    this moment; of a topic's table, the good rows."""
    tables = lake.VisibleTables(lake.open(settings_of(config)))

    def read(name: str) -> pl.LazyFrame:
        frame = tables.scan(name)
        return frame.filter("_valid") if "_valid" in frame.collect_schema() else frame

    return read


def _own_rows(
    plan: FeaturePlan, read: Callable[[str], pl.LazyFrame], start: datetime, end: datetime
) -> pl.DataFrame:
    """The keys and times of the views' rows between two times, each once, in order of time."""
    keys = {view.keys for view in plan.stored}
    if len(keys) != 1 or plan.request:
        raise CallError(
            "without entity_df, all features must come from views of one entity, and none from a request",
            remedy="Give entity_df: the keys and times for which you want features.",
        )
    (names,) = keys
    rows = []
    for view in plan.stored:
        column = view.column if isinstance(view, AsOfView) else str
        named = {name: column(name) for name in (*names, view.time)}
        frame = read(view.table).select(pl.col(source).alias(name) for name, source in named.items())
        rows.append(frame.rename({view.time: MOMENT}).with_columns(pl.col(MOMENT).cast(POLARS["timestamp"])))
    between = pl.concat(rows, how="vertical_relaxed").filter(pl.col(MOMENT).is_between(start, end))
    return between.drop_nulls().unique().sort(MOMENT, *names).collect()


_COMMENT = r"(?:--[^\n]*(?:\n|$)|/\*.*?\*/)"
_QUERY = re.compile(rf"(?:\s|\(|{_COMMENT})*(select|with|from|values)\b", re.IGNORECASE | re.DOTALL)
_FILE_READER = re.compile(r"\b(read_(?:csv|ipc|json|ndjson|parquet))\b", re.IGNORECASE)


def _select(tables: lake.Lake, read: Callable[[str], pl.LazyFrame], query: str) -> pl.DataFrame:
    """The rows that SQL selects from the lake's tables.

    Raises:
        CallError: it is not one query of these tables: polars also runs statements, and reads files by
            functions.
    """
    reader = _FILE_READER.search(query)
    if reader is not None or not _QUERY.match(query):
        raise CallError(
            f"the SQL for entity_df names {reader[1]}, which reads files"
            if reader
            else "the SQL for entity_df is not a query",
            where=query,
            remedy=f"Write one SELECT from the lake's tables: {', '.join(tables.list_tables())}.",
        )
    frames = {name: read(name) for name in tables.list_tables() if re.search(rf"\b{re.escape(name)}\b", query)}
    try:
        return pl.SQLContext(frames).execute(query, eager=True)
    except pl.exceptions.PolarsError as error:
        raise CallError(
            f"the query for entity_df cannot be run: {error}",
            where=query,
            remedy=f"It selects from the lake's tables: {', '.join(tables.list_tables())}.",
        ) from error


def _check_names(labels: Sequence[str], plan: FeaturePlan, named: Mapping[str, str]) -> None:
    """Raises CallError if a feature has the name of a column of the labels or of another feature."""
    keys = {entity.join_key for entity in plan.entities}
    for name in [*named, *named.values()]:
        if name in labels and name not in keys:
            raise CallError(
                f"entity_df has a column {name!r}, which is also the name of a feature",
                remedy="Rename the column, or ask for full_feature_names=True.",
            )
    short = list(named.values())
    shared = sorted(column for column, name in named.items() if short.count(name) > 1)
    if shared:
        raise CallError(
            f"{' and '.join(shared)} would have one name", remedy="Ask for full_feature_names=True."
        )


def _with_short_lists(rows: pa.Table) -> pa.Table:
    """Converts Arrow's large lists to lists, which Feast's other stores return."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_large_list(field.type):
            rows = rows.set_column(place, field.name, rows[field.name].cast(pa.list_(field.type.value_type)))
    return rows


def _between(frame: pl.LazyFrame, time: str, start: datetime | None, end: datetime | None) -> pl.LazyFrame:
    if start is not None:
        frame = frame.filter(pl.col(time) >= utc(start))
    return frame if end is None else frame.filter(pl.col(time) <= utc(end))


def _name_feature(reference: str) -> tuple[str, str]:
    """The view, with its version if the reference names one, and the feature."""
    view, version, feature = _parse_feature_ref(reference)
    return (view if version is None else f"{view}@v{version}"), feature


def _plan(
    views: Sequence[FeatureView], references: Sequence[str], registry: BaseRegistry, project: str
) -> FeaturePlan:
    """The plan for a request of Feast: views from its registry, features in the order of the request."""
    entities = {entity.name: entity for entity in registry.list_entities(project, allow_cache=True)}
    requested = dict.fromkeys(map(_name_feature, references))
    stored = {view.projection.name_to_use() for view in views}  # the names may be those that a service gives
    others = [reference for reference in references if _name_feature(reference)[0] not in stored]
    on_demand = _get_requested_on_demand_feature_views(others, project, registry)
    where = f"Feast project {project}"
    for view in views:
        check_entities(view, entities)
    compiled = [
        *(rename_view(compile_stored_view(view, entities, where), view.projection, where) for view in views),
        *(
            replace(compile_on_demand_view(view, where, registered=True), name=view.projection.name_to_use())
            for view in on_demand
        ),
    ]
    dtypes = {(view.name, field.name): field.dtype for view in compiled for field in view.features}
    taken = [(view, view.projection) for view in views]
    return FeaturePlan(
        model="",
        entities=compile_entity_keys(taken, entities, None, lambda _: where),
        views=tuple(compiled),
        features=tuple(FeatureRef(view, name, dtypes[view, name]) for view, name in requested),
        request=request_fields(on_demand, where),
    )
