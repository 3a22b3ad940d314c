"""The port of Feast's own SQL registry. Does not import Feast."""

from __future__ import annotations

from typing import Any, Protocol

from headrace.config.settings import Settings
from headrace.features.applied.postgres import PostgresRegistry
from headrace.features.applied.sqlite import SqliteRegistry
from headrace.kernel.addresses import is_postgres_address
from headrace.kernel.errors import ProjectError
from headrace.kernel.secrets import clean_text

__all__ = ["SqlRegistry", "find_sql_registry"]


class SqlRegistry(Protocol):
    """A database with Feast's registry of one project. Feast's `teardown` empties its tables for every project,
    so no two projects share tables.

    Raises:
        ProjectError: the address has a password in it.
        Unavailable: the server or file cannot be used.
    """

    def config(self) -> dict[str, Any]:
        """The registry's part of feature_store.yaml."""

    def prepare(self) -> None:
        """Makes the place in which Feast then creates its tables, and removes what Feast's `teardown` leaves
        behind (tables.statement_of_leftovers)."""

    def digest(self) -> str:
        """The digest of the registered objects; "" if there are no tables yet."""


def find_sql_registry(settings: Settings) -> SqlRegistry | None:
    """The registry that the setting `feast_registry` names; None if it is Feast's registry in a file.

    Raises:
        ProjectError: the setting is not an address of one.
    """
    url = settings.features.registry_url
    if url == "file":
        return None
    if url.startswith("sqlite:///"):
        return SqliteRegistry(settings)
    if is_postgres_address(url):
        return PostgresRegistry(settings)
    raise ProjectError(
        f"{clean_text(url)!r} is not the address of a Feast registry",
        where="setting feast_registry",
        remedy="Use file, sqlite, sqlite:///path/to/file.db or postgresql://host:port/database.",
    )
