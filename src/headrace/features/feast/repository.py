"""A project's Feast repository: writes its feature_store.yaml, and finds the settings that the file names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from feast import FeatureStore
from feast.repo_config import RepoConfig

from headrace.config.settings import Settings, load_settings
from headrace.features.applied.sql_registry import find_sql_registry
from headrace.kernel.errors import ProjectError

__all__ = ["YAML", "open_repository", "repository_yaml", "settings_of"]

YAML = "feature_store.yaml"
_PACKAGE = "headrace.features.feast"


def repository_yaml(settings: Settings, registry: Path) -> str:
    """The text of feature_store.yaml beside the registry's file, whether or not the registry is in it.

    Its paths, but that of a SQLite registry, are relative if the state folder is inside the project's, so that
    the project can be moved.
    """
    place, root, state = registry.parent, settings.root, settings.state
    if state.is_relative_to(root):
        root, state = (Path(os.path.relpath(path, place)) for path in (root, state))
    database = find_sql_registry(settings)
    where = {"path": registry.name, "cache_ttl_seconds": 60} if database is None else database.config()
    text: str = yaml.safe_dump(
        {
            "project": settings.project,
            "provider": f"{_PACKAGE}.provider.HeadraceProvider",
            "registry": {**where, "enable_online_feature_view_versioning": True},
            "offline_store": {
                "type": f"{_PACKAGE}.offline_store.HeadraceOfflineStore",
                "root": str(root),
                "profile": settings.profile_name,
                "state": str(state),
            },
            "online_store": {"type": f"{_PACKAGE}.online_store.HeadraceOnlineStore"},
            "entity_key_serialization_version": 3,
        },
        sort_keys=False,
    )
    return text


@contextmanager
def open_repository(folder: Path, config: RepoConfig | None = None) -> Iterator[FeatureStore]:
    """Feast's own access to the repository in this folder, which closes its connections at the end.

    Args:
        folder: the folder of feature_store.yaml.
        config: the content of that file, if the caller has read it.
    """
    store = FeatureStore(repo_path=str(folder), config=config)
    try:
        yield store
    finally:
        engine = getattr(store.registry, "write_engine", None)
        if engine is not None:
            engine.dispose()


def settings_of(config: RepoConfig) -> Settings:
    """The settings of the project that a feature_store.yaml was written for.

    Raises:
        ProjectError: the project or its profile no longer exists, or feature_store.yaml does not name
            Headrace's offline store.
    """
    store = config.offline_store
    if not hasattr(store, "root"):
        raise ProjectError(
            f"feature_store.yaml has the offline store {store.type}, which does not name a project",
            where=str(config.repo_path),
            remedy="Use the feature_store.yaml that a build writes: Headrace's stores work together.",
        )
    folder = "" if config.repo_path is None else str(config.repo_path)
    root, state = (Path(os.path.abspath(os.path.join(folder, path))) for path in (store.root, store.state))
    return load_settings(root, store.profile).with_state(state)
