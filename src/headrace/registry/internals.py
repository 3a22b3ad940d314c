"""What Headrace uses of MLflow beyond its public interface, and the versions of MLflow that have it.

Every use calls `kernel.foreign.check_version` first, so that another version of MLflow gives a clear error.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ADDRESSES", "ARTIFACT_ROOT", "FUNCTIONS", "TABLES"]

TABLES: Mapping[str, tuple[str, ...]] = {
    "experiments": ("name", "artifact_location"),
    "latest_metrics": ("run_uuid", "key", "value", "is_nan"),
    "logged_models": ("artifact_location",),
    "model_version_tags": ("name", "version", "key", "value"),
    "model_versions": (
        "name",
        "version",
        "workspace",
        "run_id",
        "creation_time",
        "current_stage",
        "source",
        "storage_location",
    ),
    "params": ("run_uuid", "key", "value"),
    "registered_model_aliases": ("name", "alias", "version", "workspace"),
    "registered_model_tags": ("name", "key", "value"),
    "registered_models": ("name",),
    "runs": ("run_uuid", "artifact_uri"),
}
"""Table of the SQLite store → the columns that registry.tables and registry.home read and write."""

ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
"""The columns (table, column) with addresses of the files of an experiment, a run, a version or a model."""

ARTIFACT_ROOT = "_MLFLOW_SERVER_ARTIFACT_ROOT"
"""The environment variable that keeps a store on SQLite from making ./mlruns in the working directory."""

FUNCTIONS: Mapping[str, tuple[str, ...]] = {
    "mlflow.store.db.utils": ("_initialize_tables", "create_sqlalchemy_engine"),
}
"""Module → the functions that registry.client calls, so that MLflow makes its database in a draft."""
