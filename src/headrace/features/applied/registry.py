"""Checks whether Feast's registry is unchanged since it was applied."""

from __future__ import annotations

from pathlib import Path

from headrace.config.settings import Settings
from headrace.features.applied.sql_registry import find_sql_registry
from headrace.kernel.digest import digest_file

__all__ = ["APPLIED", "REGISTRY", "folder", "is_registry_as_applied", "mark_of", "registry_digest"]

APPLIED = "applied.txt"
REGISTRY = "registry.db"


def folder(settings: Settings) -> Path:
    """The folder for stock Feast: `FeatureStore(repo_path=folder(settings))`."""
    return settings.place("feast")


def registry_digest(settings: Settings) -> str:
    """The digest of what the registry holds; "" if it does not exist. Feast itself also writes it, by `feast
    apply`, `teardown` and `materialize`.

    Raises:
        ProjectError: the setting `feast_registry` is not a valid address.
        Unavailable: the registry is on a server that cannot be reached, or its SQLite file cannot be used.
    """
    if (database := find_sql_registry(settings)) is not None:
        return database.digest()
    file = folder(settings) / REGISTRY
    return digest_file(file) if file.is_file() else ""


def mark_of(settings: Settings, declared: str) -> str:
    """The text of applied.txt: the digests of the declarations and of the registry."""
    return f"{declared}\n{registry_digest(settings)}"


def is_registry_as_applied(settings: Settings) -> bool:
    """Whether the registry is unchanged since it was applied."""
    mark = folder(settings) / APPLIED
    return mark.is_file() and mark.read_text().partition("\n")[2] == registry_digest(settings) != ""
