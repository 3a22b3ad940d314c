"""What Headrace uses of Feast beyond its public interface, and the versions of Feast that have it.

This module is imported before Feast. It imports Feast without typeguard's run-time checks, which takes 1.2 s
of CPU instead of 4.1: Feast marks its classes for typeguard, which compiles all their methods again at
import, in every process. `compile` reports with its place what the checks would find in a project's
definitions. It also keeps Feast from importing PyTorch, which takes seconds where it is installed, until
`to_tensor` needs it. And it keeps Feast from making a temporary folder for the metrics of its own server,
which a killed process would leave behind. If the process has imported Feast before, nothing changes.
"""

from __future__ import annotations

import copy
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import prometheus_client  # noqa: F401  # before the folder below is named: it then keeps values in memory
import typeguard

from headrace.kernel.foreign import check_version

if TYPE_CHECKING:
    from feast import FeatureService, OnDemandFeatureView, StreamFeatureView

__all__ = [
    "INTERNALS",
    "FeastInternal",
    "compare_as_registered",
    "service_entries",
    "skip_inference",
    "without_text",
]


class FeastInternal(NamedTuple):
    """A name that Feast does not promise to keep.

    Attributes:
        module: the module that has it.
        name: its name there; a dotted name is an attribute of a class.
        use: what Headrace uses it for.
    """

    module: str
    name: str
    use: str


INTERNALS = (
    FeastInternal("typeguard", "typechecked", "Feast is imported without run-time type checks"),
    FeastInternal("feast.feature_service", "FeatureService._features", "a service's entries, text among them"),
    FeastInternal(
        "feast.feature_service", "FeatureService._pending_feature_refs", "fingerprints of services with text"
    ),
    FeastInternal("feast.feature_view", "DUMMY_ENTITY_NAME", "views without an entity"),
    FeastInternal("feast.feature_view", "DUMMY_ENTITY_FIELD", "views without an entity"),
    FeastInternal(
        "feast.on_demand_feature_view",
        "OnDemandFeatureView.infer_features",
        "Feast does not call functions with its own sample",
    ),
    FeastInternal(
        "feast.transformation.python_transformation",
        "PythonTransformation",
        "its udf_string is replaced by text that runs alone",
    ),
    FeastInternal("feast.aggregation", "Aggregation.resolved_name", "the name of an aggregation's feature"),
    FeastInternal("feast.protos.feast.core.Registry_pb2", "Registry", "whether a registry file is readable"),
    FeastInternal("feast.data_source", "DataSource._to_proto_impl", "TableSource in Feast's registry"),
    FeastInternal(
        "feast.infra.offline_stores.offline_store",
        "RetrievalJob._to_arrow_internal",
        "get_historical_features computes its rows when they are requested",
    ),
    FeastInternal(
        "feast.infra.offline_stores.offline_store",
        "RetrievalJob._to_df_internal",
        "get_historical_features computes its rows when they are requested",
    ),
    FeastInternal(
        "feast.infra.offline_stores.offline_utils",
        "infer_event_timestamp_from_entity_df",
        "the time column of the labels",
    ),
    FeastInternal(
        "feast.infra.online_stores.online_store",
        "OnlineStore._versioned_read_supported",
        "Feast reads versions of views from the online store",
    ),
    FeastInternal(
        "feast.stream_feature_view",
        "StreamFeatureView._schema_or_udf_changed",
        "a registry file gets a version of a stream view only where the view has changed",
    ),
    FeastInternal("feast.utils", "_parse_feature_ref", "the version that a reference names"),
    FeastInternal("feast.utils", "_get_requested_on_demand_feature_views", "the versions of on-demand views"),
    FeastInternal(
        "feast.infra.passthrough_provider",
        "PassthroughProvider.materialize_single_feature_view",
        "materialize loads a snapshot",
    ),
    FeastInternal(
        "feast.infra.passthrough_provider", "PassthroughProvider.ingest_df", "push keeps the rows' types"
    ),
    FeastInternal("feast.online_response", "get_torch", "Feast imports PyTorch when it is needed"),
    FeastInternal(
        "feast.infra.offline_stores.offline_store", "get_torch", "Feast imports PyTorch when it is needed"
    ),
    FeastInternal("feast.saved_dataset", "SavedDatasetStorage._custom_storage_proto", "saved datasets"),
    FeastInternal("feast.saved_dataset", "_DATA_SOURCE_TO_SAVED_DATASET_STORAGE", "saved datasets"),
    FeastInternal("feast.metrics", "_prometheus_mp_dir", "Feast makes no folder for metrics"),
    FeastInternal("feast.utils", "_get_cached_request_context", "the types of the keys that are asked for"),
    FeastInternal("feast.utils", "compute_non_entity_date_range", "features without entity_df"),
    FeastInternal("feast.type_map", "feast_value_type_to_python_type", "values of a key"),
    FeastInternal("feast.type_map", "python_values_to_proto_values", "values of an online read"),
)
"""Used by the modules of this room."""

_METRICS_FOLDERS = ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR")


def service_entries(service: FeatureService) -> list[Any]:
    """A feature service's entries in their order: views, or text such as `activity:price_1h`."""
    entries: list[Any] = service._features
    return entries


def without_text(service: FeatureService) -> FeatureService:
    """The service without its entries of text: Feast writes none before it has resolved them."""
    views = copy.copy(service)
    views._pending_feature_refs = []
    return views


def skip_inference(view: OnDemandFeatureView) -> None:
    """Makes Feast take the view's features from its schema.

    Otherwise Feast calls the function with its own sample and refuses correct results: None for a missing
    feature, a whole number for a float.
    """
    view.infer_features = _infer_nothing


def compare_as_registered(view: StreamFeatureView) -> None:
    """Makes Feast's registry file compare the view with its own entry in the form of that entry.

    Otherwise each apply would record a version: the entry lists the keys among the features, and has other
    defaults. Where Feast finds no change it would keep the old hop of tiles, so a new one is a change.
    """
    read = type(view).from_proto

    def has_changed(other: StreamFeatureView) -> bool:
        registered = read(view.to_proto())
        tiles = [(v.enable_tiling, v.tiling_hop_size) for v in (registered, other)]
        return tiles[0] != tiles[1] or registered._schema_or_udf_changed(other)

    view._schema_or_udf_changed = has_changed


def _infer_nothing() -> None:
    """Replaces `OnDemandFeatureView.infer_features`."""


def _leave_unchecked(target: Any = None, **_: Any) -> Any:
    """Replaces `typeguard.typechecked`: returns the class or function unchanged."""
    return (lambda undecorated: undecorated) if target is None else target


def _import_torch() -> Any:
    """Replaces `feast.torch_wrapper.get_torch`, which returns the PyTorch that Feast imported."""
    import torch

    return torch


check_version("feast")
if "feast" not in sys.modules:
    _typechecked, _has_torch = typeguard.typechecked, "torch" in sys.modules
    _unnamed = [name for name in _METRICS_FOLDERS if name not in os.environ]
    os.environ.update(dict.fromkeys(_unnamed, ""))
    typeguard.typechecked = _leave_unchecked
    if not _has_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes its import fail at once
    try:
        # A dozen of Feast's modules change which warnings the process shows, which only the user should do.
        with warnings.catch_warnings():
            import feast.infra.offline_stores.offline_store
            import feast.metrics
            import feast.online_response
    finally:
        for _name in _unnamed:
            del os.environ[_name]
        typeguard.typechecked = _typechecked
        if not _has_torch:
            del sys.modules["torch"]
    feast.online_response.get_torch = _import_torch
    feast.infra.offline_stores.offline_store.get_torch = _import_torch
