"""The file with the releases in force, from which an endpoint starts while the log cannot be reached."""

from __future__ import annotations

from pathlib import Path

from headrace.config.settings import Settings

__all__ = ["find_kept_releases"]


def find_kept_releases(settings: Settings) -> Path:
    """Where it is: it exists once a replica has put a release in force."""
    return settings.place("serving", "releases.json")
