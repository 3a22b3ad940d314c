"""Feast's registry in PostgreSQL: where it is, and a digest of what it holds. Does not import Feast.

Feast's tables are in the project's own schema, because `feast teardown` empties them for every project.
"""

# ruff: noqa: S608  (the names in statements are Feast's)

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.config.settings import Settings
from headrace.kernel.addresses import check_postgres_address, is_postgres_address, sqlalchemy_postgres_url
from headrace.kernel.digest import digest_value
from headrace.kernel.errors import ProjectError
from headrace.kernel.extras import require
from headrace.kernel.secrets import clean_text

if TYPE_CHECKING:
    from headrace.kernel.postgres import PostgresConnection

__all__ = ["prepare_sql_registry", "sql_registry_config", "sql_registry_digest"]

_SETTING = "feast_registry"
_SECONDS = 5  # that Feast waits for a connection
_VIEWS = ("feature_views", "stream_feature_views", "on_demand_feature_views", "label_views")
_OBJECTS = {  # Feast's tables of objects → the column of the object
    "entities": "entity",
    "data_sources": "data_source",
    "feature_services": "feature_service",
    **dict.fromkeys(_VIEWS, "feature_view"),
}
_VERSIONS = "feature_view_version_history"
_T = TypeVar("_T")


def sql_registry_config(settings: Settings) -> dict[str, Any]:
    """The registry's part of feature_store.yaml."""
    from headrace.kernel.postgres import schema_of

    options = {"options": f"-c search_path={schema_of(settings.project)}", "connect_timeout": _SECONDS}
    return {
        "registry_type": "sql",
        "path": sqlalchemy_postgres_url(settings.features.feast_registry),
        "cache_ttl_seconds": 60,
        "sqlalchemy_config_kwargs": {"echo": False, "pool_pre_ping": True, "connect_args": options},
    }


def prepare_sql_registry(settings: Settings) -> None:
    """Creates the project's schema, in which Feast then creates its tables.

    Removes the versions of deleted views, which Feast's `teardown` leaves behind: with them, Feast cannot
    add the views again.

    Raises:
        ProjectError: the setting is not a valid address, or has a password in it.
        Unavailable: the server cannot be reached, or the user may not create a schema.
    """
    _query(settings, _prepare)


def sql_registry_digest(settings: Settings) -> str:
    """The digest of the registered objects; "" if there are no tables yet. Raises as `prepare_sql_registry`."""
    rows = _query(settings, lambda connection, schema: _select_objects(connection, schema, settings.project))
    return digest_value([list(row) for row in rows]) if rows else ""


def _prepare(connection: PostgresConnection, schema: str) -> None:
    from headrace.kernel.postgres import create_schema

    create_schema(connection, schema)
    if _exists(connection, schema):
        is_gone = [
            f"not exists (select from {schema}.{table} v where v.feature_view_name = h.feature_view_name"
            " and v.project_id = h.project_id)"
            for table in _VIEWS
        ]
        connection.execute(f"delete from {schema}.{_VERSIONS} h where {' and '.join(is_gone)}".encode())


def _select_objects(connection: PostgresConnection, schema: str, project: str) -> Sequence[tuple[Any, ...]]:
    """Table, name and digest of each object of the project."""
    if not _exists(connection, schema):
        return ()
    selects = [
        f"select '{table}', {column}_name, md5({column}_proto) from {schema}.{table}"
        " where project_id = %(project)s"
        for table, column in _OBJECTS.items()
    ]
    arguments: Mapping[str, str] = {"project": project}
    return connection.execute(f"{' union all '.join(selects)} order by 1, 2".encode(), arguments).fetchall()


def _exists(connection: PostgresConnection, schema: str) -> bool:
    """Whether Feast has created its tables, which it does all at once."""
    return connection.execute("select to_regclass(%s)", (f"{schema}.{_VERSIONS}",)).fetchone() != (None,)


def _query(settings: Settings, work: Callable[[PostgresConnection, str], _T]) -> _T:
    """Calls `work` with a connection and the project's schema."""
    url = settings.features.feast_registry
    if not is_postgres_address(url):
        raise ProjectError(
            f"{clean_text(url)!r} is not the address of a Feast registry",
            where=f"setting {_SETTING}",
            remedy="Use file or postgresql://host:port/database.",
        )
    check_postgres_address(url, _SETTING)
    require("psycopg", "a Feast registry in PostgreSQL", where=url)
    from headrace.kernel.postgres import PostgresPool, schema_of

    with closing(PostgresPool(url)) as pool:
        return pool.run(lambda connection: work(connection, schema_of(settings.project)))
