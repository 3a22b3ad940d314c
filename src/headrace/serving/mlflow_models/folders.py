"""Where the artefacts and the environments of MLflow models lie in the state folder."""

from __future__ import annotations

from pathlib import Path

from headrace.config.settings import Settings

__all__ = ["artifacts_folder", "environments_folder"]


def artifacts_folder(settings: Settings) -> Path:
    """The folder of all artefacts."""
    return settings.place("mlflow_models", "artifacts")


def environments_folder(settings: Settings) -> Path:
    """The folder of all environments."""
    return settings.place("mlflow_models", "environments")
