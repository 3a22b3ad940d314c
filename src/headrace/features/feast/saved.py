"""Tables of the lake that Feast's own API writes: saved datasets, and the logs of a feature service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.dataset
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import LOG_TIMESTAMP_FIELD, LoggingDestination
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.protos.feast.core.FeatureService_pb2 import LoggingConfig as LoggingConfigProto
from feast.protos.feast.core.SavedDataset_pb2 import SavedDatasetStorage as SavedDatasetStorageProto
from feast.saved_dataset import _DATA_SOURCE_TO_SAVED_DATASET_STORAGE, SavedDatasetStorage

from headrace.features.feast.source import TableSource
from headrace.kernel.errors import CallError
from headrace.lake import Lake

__all__ = ["LoggingTable", "SavedDatasetTable", "append_logs", "is_dataset", "write_dataset"]

_PREFIX = "headrace_feast_"  # no table of a project can have this name
_TIME = "event_timestamp"


_DATA_SOURCE_TO_SAVED_DATASET_STORAGE[TableSource.__name__] = f"{__name__}.SavedDatasetTable"


class SavedDatasetTable(SavedDatasetStorage):  # type: ignore[misc]
    """Where `create_saved_dataset` writes: a table of the lake.

    Attributes:
        name: the name of the dataset.
        table: its table, `headrace_feast_NAME`.
    """

    _proto_attr_name = "custom_storage"

    def __init__(self, name: str) -> None:
        self.name = name
        self.table = _PREFIX + name

    @staticmethod
    def from_proto(storage_proto: SavedDatasetStorageProto) -> SavedDatasetTable:
        """The storage from its entry in a registry."""
        return SavedDatasetTable(json.loads(storage_proto.custom_storage.configuration)["name"])

    @staticmethod
    def from_data_source(data_source: DataSource) -> SavedDatasetTable:
        """The storage that a source reads. Raises SavedDatasetLocationAlreadyExists for any other table."""
        name = str(data_source.name)
        if not is_dataset(name):
            raise SavedDatasetLocationAlreadyExists(name)
        return SavedDatasetTable(name.removeprefix(_PREFIX))

    def to_proto(self) -> SavedDatasetStorageProto:
        """The storage's entry in a registry."""
        options = DataSourceProto.CustomSourceOptions(configuration=json.dumps({"name": self.name}).encode())
        proto: SavedDatasetStorageProto = self._custom_storage_proto(options)
        return proto

    def to_data_source(self) -> DataSource:
        """The table as a source."""
        return TableSource.of_table(self.table, _TIME)


class LoggingTable(LoggingDestination):  # type: ignore[misc]
    """Where `write_logged_features` writes: a table of the lake.

    Attributes:
        name: the name of the logs.
        table: their table, `headrace_feast_NAME`.
    """

    _proto_kind = "headrace"

    def __init__(self, name: str) -> None:
        self.name = name
        self.table = _PREFIX + name

    @classmethod
    def from_proto(cls, config_proto: LoggingConfigProto) -> LoggingTable:
        """The destination from its entry in a registry."""
        return cls(config_proto.custom_destination.config["name"])

    def to_proto(self) -> LoggingConfigProto:
        """The destination's entry in a registry."""
        custom = LoggingConfigProto.CustomDestination(kind=self._proto_kind, config={"name": self.name})
        return LoggingConfigProto(custom_destination=custom)

    def to_data_source(self) -> DataSource:
        """The table as a source."""
        return TableSource.of_table(self.table, LOG_TIMESTAMP_FIELD)


def is_dataset(table: str) -> bool:
    """Whether the table of this name was written by Feast's own API."""
    return table.startswith(_PREFIX)


def write_dataset(lake: Lake, storage: Any, rows: pa.Table, *, overwrite: bool) -> None:
    """Writes a saved dataset.

    Raises:
        CallError: the storage is not a SavedDatasetTable, or the rows have no event_timestamp.
        SavedDatasetLocationAlreadyExists: the table exists, and `overwrite` is not set.
    """
    if not isinstance(storage, SavedDatasetTable):
        raise CallError(
            f"a dataset cannot be saved to a {type(storage).__name__}",
            remedy="Save it in the lake: storage=SavedDatasetTable(name).",
        )
    if _TIME not in rows.column_names:
        raise CallError(
            f"the dataset has no column {_TIME}, by which Feast reads it again",
            remedy=f"Give entity_df's column of times the name {_TIME}.",
        )
    if lake.table_exists(storage.table) and not overwrite:
        raise SavedDatasetLocationAlreadyExists(storage.table)
    lake.ensure(storage.table, rows.schema, exact=True).overwrite(rows)


def append_logs(lake: Lake, destination: Any, logs: pa.Table | Path, schema: pa.Schema) -> None:
    """Appends the logs of a feature service: a table, or a folder of Parquet files.

    Raises:
        CallError: the destination is not a LoggingTable.
    """
    if not isinstance(destination, LoggingTable):
        raise CallError(
            f"features cannot be logged to a {type(destination).__name__}",
            remedy="Log them in the lake: LoggingConfig(destination=LoggingTable(name)).",
        )
    if not isinstance(logs, pa.Table):
        logs = pyarrow.dataset.dataset(logs, schema=schema).to_table()
    rows = pl.DataFrame(logs).with_columns(pl.col(pl.Datetime).cast(pl.Datetime("us", "UTC"))).to_arrow()
    lake.ensure(destination.table, rows.schema).append(rows)
