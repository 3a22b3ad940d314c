"""Headrace's stores for Feast's universal test suites, which import this module by its name (see run.py).

Each environment of a suite is a small Headrace project in a temporary folder. A data source is a table of its
lake, made by writing the suite's DataFrame there. What the suites declare and Headrace refuses by name is
left out of their views, so that the rest of these views is tested: fields of type Map, Json and Struct.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
from feast import FeatureStore, FeatureView, OnDemandFeatureView
from feast.data_source import DataSource
from feast.infra.provider import PROVIDERS_CLASS_FOR_TYPE
from feast.types import Json, Map, Struct
from tests.universal.feature_repos.universal.data_source_creator import DataSourceCreator
from tests.universal.feature_repos.universal.data_sources import file

from headrace import lake
from headrace.code.by_value import serialize_function
from headrace.config.settings import Settings, load_settings
from headrace.features.feast.offline_store import HeadraceOfflineStoreConfig
from headrace.features.feast.saved import LoggingTable, SavedDatasetTable
from headrace.features.feast.source import TableSource
from headrace.features.feast.types import arrow_columns

__all__ = ["AVAILABLE_OFFLINE_STORES", "AVAILABLE_ONLINE_STORES", "HeadraceDataSourceCreator"]

PROVIDER = "headrace.features.feast.provider.HeadraceProvider"
ONLINE_STORE = "headrace.features.feast.online_store.HeadraceOnlineStore"
_REFUSED = (Json, Map)
_CONFIGURATION = "tests.universal.feature_repos.repo_configuration"


class HeadraceDataSourceCreator(DataSourceCreator):
    """Makes the tables of one environment."""

    def __init__(self, project_name: str, *arguments: Any, **more: Any) -> None:
        super().__init__(project_name)
        self._root = Path(tempfile.mkdtemp(prefix="headrace-feast-"))
        address = os.environ.get("HEADRACE_FEAST_SUITES_ONLINE", "")
        online = f'online = "{address}"\n' if address else ""
        (self._root / "headrace.toml").write_text(
            f'[project]\nname = "{project_name}"\n[profile.local]\n{online}'
        )

    @property
    def _settings(self) -> Settings:
        return load_settings(self._root)

    def create_data_source(
        self,
        df: pd.DataFrame,
        destination_name: str,
        created_timestamp_column: str | None = "created_ts",
        field_mapping: dict[str, str] | None = None,
        timestamp_field: str | None = "ts",
    ) -> DataSource:
        """Writes the frame to a table, and returns its source."""
        name = self.get_prefixed_table_name(destination_name)
        rows = _in_utc(self.serialize_complex_columns(df)).to_arrow()
        lake.open(self._settings).ensure(name, rows.schema).append(rows)
        return TableSource.of_table(
            name,
            timestamp_field or "ts",
            columns=arrow_columns(rows.schema),
            field_mapping={"ts_1": "ts"} if field_mapping is None else field_mapping,
            created_timestamp_column=created_timestamp_column,
        )

    def get_prefixed_table_name(self, suffix: str) -> str:
        """The name of a table in the lake."""
        return suffix.replace(".", "_").replace("-", "_")

    def create_offline_store_config(self) -> HeadraceOfflineStoreConfig:
        """The offline store's part of feature_store.yaml."""
        settings = self._settings
        return HeadraceOfflineStoreConfig(
            root=str(settings.root), profile=settings.profile_name, state=str(settings.state)
        )

    def create_saved_dataset_destination(self) -> SavedDatasetTable:
        """A table for a saved dataset."""
        return SavedDatasetTable("saved")

    def create_logged_features_destination(self) -> LoggingTable:
        """A table for the features that were served."""
        return LoggingTable("logs")

    def teardown(self) -> None:
        """Deletes the project."""
        shutil.rmtree(self._root, ignore_errors=True)


def _in_utc(frame: pd.DataFrame) -> pl.DataFrame:
    """The frame with its times in UTC, those without a zone as they are. A column may hold several zones."""
    times = {
        name: pd.to_datetime(frame[name], utc=True)
        for name in frame.columns
        if any(isinstance(value, pd.Timestamp) for value in frame[name].dropna().head(1))
    }
    return pl.from_pandas(frame.assign(**times)).with_columns(
        pl.col(pl.Datetime("ns", "UTC"), pl.Datetime("us", "UTC"), pl.Datetime("ms", "UTC")).cast(
            pl.Datetime("us", "UTC")
        )
    )


def _leave_out_refused_fields(view: FeatureView) -> FeatureView:
    view.features = [f for f in view.features if f.dtype not in _REFUSED and not isinstance(f.dtype, Struct)]
    view.projection.features = list(view.features)
    return view


def _with_source_text(view: Any) -> Any:
    """An on-demand view with the text of its function, which `headrace build` would register. One whose values
    are to be kept is left as it is, for the stores to refuse."""
    if isinstance(view, OnDemandFeatureView) and not view.write_to_online_store:
        transformation = view.feature_transformation
        transformation.udf_string = serialize_function(transformation.udf, decorator="on_demand_feature_view")
    return view


_apply = FeatureStore.apply


def _apply_as_build_does(store: FeatureStore, objects: Any, *arguments: Any, **more: Any) -> Any:
    listed = objects if isinstance(objects, list) else [objects]
    for view in listed:
        if isinstance(view, FeatureView):
            _leave_out_refused_fields(view)
    return _apply(store, [_with_source_text(view) for view in listed], *arguments, **more)


FeatureStore.apply = _apply_as_build_does
TableSource.table = property(lambda source: source.name)  # by which the suites know a source that has SQL

# The suites' own names for a store of each kind, so that tests which ask for one by name use Headrace's.
PROVIDERS_CLASS_FOR_TYPE["local"] = PROVIDER
file.FileDataSourceCreator = HeadraceDataSourceCreator
sys.modules[_CONFIGURATION].OFFLINE_STORE_TO_PROVIDER_CONFIG["file"] = ("local", HeadraceDataSourceCreator)
AVAILABLE_OFFLINE_STORES = [("local", HeadraceDataSourceCreator)]
AVAILABLE_ONLINE_STORES = {"sqlite": ({"type": ONLINE_STORE}, None)}
