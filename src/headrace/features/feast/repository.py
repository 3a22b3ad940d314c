"""The Feast repository of a project: its folder, its feature_store.yaml, and the way back from it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import yaml
from feast.repo_config import RepoConfig

from headrace.config.settings import Settings, load_settings
from headrace.kernel.errors import ProjectError

__all__ = ["YAML", "described", "settings_of"]

YAML = "feature_store.yaml"
_HERE = "headrace.features.feast"


def described(settings: Settings, registry: Path) -> str:
    """The text of feature_store.yaml."""
    text: str = yaml.safe_dump(
        {
            "project": settings.project,
            "provider": f"{_HERE}.provider.HeadraceProvider",
            "registry": {"path": str(registry), "cache_ttl_seconds": 60},
            "offline_store": {
                "type": f"{_HERE}.offline_store.HeadraceOfflineStore",
                "root": str(settings.root),
                "profile": settings.profile_name,
                "state": str(settings.state),
            },
            "online_store": {"type": f"{_HERE}.online_store.HeadraceOnlineStore"},
            "entity_key_serialization_version": 3,
        },
        sort_keys=False,
    )
    return text


def settings_of(config: RepoConfig) -> Settings:
    """The settings of the project that a feature_store.yaml was written for.

    Raises:
        ProjectError: the project, or its profile, is no longer there, or feature_store.yaml does not name
            Headrace's offline store.
    """
    address = config.offline_store
    if not hasattr(address, "root"):
        raise ProjectError(
            f"feature_store.yaml has the offline store {address.type}, which does not say whose project it is",
            where=str(config.repo_path),
            remedy="Take the feature_store.yaml that a build writes: Headrace's stores work together.",
        )
    settings = load_settings(Path(address.root), address.profile)
    return msgspec.structs.replace(settings, state=Path(address.state))
