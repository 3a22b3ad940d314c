"""Feast's SQL registry in PostgreSQL. Does not import Feast.

Feast's tables are in the project's own schema, because `feast teardown` empties them for every project.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.config.settings import Settings
from headrace.features.applied.tables import VERSIONS, select_protos, statement_of_leftovers
from headrace.kernel.addresses import check_postgres_address, sqlalchemy_postgres_url
from headrace.kernel.digest import digest_value
from headrace.kernel.extras import require

if TYPE_CHECKING:
    from headrace.kernel.postgres import PostgresConnection

__all__ = ["PostgresRegistry"]

_SECONDS = 5  # that Feast waits for a connection
_T = TypeVar("_T")


class PostgresRegistry:
    """A SqlRegistry of one project, in a schema of its own."""

    def __init__(self, settings: Settings) -> None:
        self._project, self._url = settings.project, settings.features.registry_url

    def config(self) -> dict[str, Any]:
        """See SqlRegistry."""
        from headrace.kernel.postgres import schema_of

        options = {"options": f"-c search_path={schema_of(self._project)}", "connect_timeout": _SECONDS}
        return {
            "registry_type": "sql",
            "path": sqlalchemy_postgres_url(self._url),
            "cache_ttl_seconds": 60,
            "sqlalchemy_config_kwargs": {"echo": False, "pool_pre_ping": True, "connect_args": options},
        }

    def prepare(self) -> None:
        """See SqlRegistry. The user may not be allowed to create a schema: Unavailable."""
        self._run(_prepare)

    def digest(self) -> str:
        """See SqlRegistry."""
        rows = self._run(lambda connection, schema: _select_objects(connection, schema, self._project))
        return digest_value([list(row) for row in rows]) if rows else ""

    def _run(self, work: Callable[[PostgresConnection, str], _T]) -> _T:
        """Calls `work` with a connection and the project's schema."""
        check_postgres_address(self._url, "feast_registry")
        require("psycopg", "a Feast registry in PostgreSQL", where=self._url)
        from headrace.kernel.postgres import PostgresPool, schema_of

        with closing(PostgresPool(self._url)) as pool:
            return pool.run(lambda connection: work(connection, schema_of(self._project)))


def _prepare(connection: PostgresConnection, schema: str) -> None:
    from headrace.kernel.postgres import create_schema

    create_schema(connection, schema)
    if _exists(connection, schema):
        connection.execute(statement_of_leftovers(lambda table: f"{schema}.{table}").encode())


def _select_objects(connection: PostgresConnection, schema: str, project: str) -> list[tuple[Any, ...]]:
    """Table, name and digest of each object of the project."""
    if not _exists(connection, schema):
        return []
    statement = select_protos(lambda table: f"{schema}.{table}", "%(project)s", lambda column: f"md5({column})")
    return connection.execute(statement.encode(), {"project": project}).fetchall()


def _exists(connection: PostgresConnection, schema: str) -> bool:
    """Whether Feast has created its tables, which it does all at once."""
    return connection.execute("select to_regclass(%s)", (f"{schema}.{VERSIONS}",)).fetchone() != (None,)
