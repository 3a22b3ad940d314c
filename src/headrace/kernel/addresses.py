"""Addresses: the only module that converts paths to URLs, and URLs to paths, and that reads databases' URLs.

A folder's name may contain any character, also `#`, `?` and `%41`. So the path in an address of Headrace is
never encoded, and never parsed as a URL. SQLAlchemy, and so MLflow, requires `%` and `?` to be encoded.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from headrace.kernel.errors import ProjectError

__all__ = [
    "check_postgres_address",
    "check_redis_address",
    "is_postgres_address",
    "is_remote",
    "path_of",
    "path_of_sqlalchemy",
    "sqlalchemy_postgres_url",
    "sqlalchemy_url",
    "sqlite_address",
]

_SQLITE = "sqlite://"
_POSTGRES = ("postgresql://", "postgres://")  # as libpq has them


def is_remote(path: str) -> bool:
    """Whether a path is an address, such as that of an object store."""
    return "://" in path


def sqlite_address(path: Path) -> str:
    """The address of a SQLite file, or of a folder of SQLite files: `sqlite://` and the absolute path."""
    return f"{_SQLITE}{path}"


def path_of(address: str) -> Path:
    """The path in an address from `sqlite_address`, or in such an address from a user."""
    return Path(address.removeprefix(_SQLITE))


def sqlalchemy_url(path: Path) -> str:
    """The URL under which SQLAlchemy opens a SQLite file at an absolute path: `sqlite:////...`."""
    encoded = str(path).replace("%", "%25").replace("?", "%3F")
    # MLflow creates the folder of a sqlite:/// URL under its encoded name; with a driver it creates no folder.
    driver = "" if encoded == str(path) else "+pysqlite"
    return f"sqlite{driver}:///{encoded}"


def sqlalchemy_postgres_url(url: str) -> str:
    """The URL under which SQLAlchemy opens a PostgreSQL database with psycopg 3."""
    return f"postgresql+psycopg://{url.partition('://')[2]}"


def path_of_sqlalchemy(url: str) -> Path | None:
    """The SQLite file in a SQLAlchemy URL; None if it names another database."""
    dialect, _, path = url.partition(":///")
    if dialect not in ("sqlite", "sqlite+pysqlite"):
        return None
    return Path(unquote(path.partition("?")[0]))


def is_postgres_address(url: str) -> bool:
    """Whether the URL is the address of a PostgreSQL database."""
    return url.startswith(_POSTGRES)


def check_postgres_address(url: str, setting: str) -> None:
    """Checks that the address of a PostgreSQL database, from this setting, has no password in it.

    Raises:
        ProjectError: it has one, or it is not a valid URL.
    """
    _check_address(
        url, setting, "PostgreSQL database", "PostgreSQL's clients take it from PGPASSWORD or ~/.pgpass"
    )


def check_redis_address(url: str, setting: str) -> None:
    """Checks that the address of a Redis server, from this setting, has no password in it.

    Raises:
        ProjectError: it has one, or it is not a valid URL.
    """
    _check_address(url, setting, "Redis server", "it is taken from REDISCLI_AUTH, as redis-cli does")


def _check_address(url: str, setting: str, server: str, source: str) -> None:
    where = f"setting {setting}"
    try:
        parts = urlsplit(url)
        names = {name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    except ValueError:
        raise ProjectError(f"the address of the {server} is not a valid URL", where=where) from None
    if parts.password is not None or names & {"password", "sslpassword", "ssl_password"}:
        raise ProjectError(
            f"the address of the {server} has a password in it",
            where=where,
            remedy=f"Take it out of the address: {source}.",
        )
