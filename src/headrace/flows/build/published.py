"""Whether PostgreSQL still has what a build published there."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.config.settings import Settings
from headrace.kernel.errors import HeadraceError, Unavailable
from headrace.kernel.extras import require

__all__ = ["is_published"]


def is_published(settings: Settings, name: str, database: str, snapshots: Mapping[str, int]) -> bool:
    """Whether the database has these snapshots of a publication's tables, as far as it can be reached."""
    try:
        require("psycopg", "a publication")
        from headrace.tables.warehouse.publication import published_snapshots

        return published_snapshots(name, settings.databases.addresses[database], f"publish-{name}") == snapshots
    except Unavailable:  # a stage that must run says so
        return True
    except HeadraceError:  # the stage says why
        return False
