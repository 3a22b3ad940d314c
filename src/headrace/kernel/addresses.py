"""Addresses: the only module that converts paths to URLs, and URLs to paths, and that reads databases' URLs.

A folder's name may contain any character, also `#`, `?` and `%41`. So the path in an address of Headrace is
never encoded, and never parsed as a URL. SQLAlchemy, and so MLflow, requires `%` and `?` to be encoded.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from headrace.kernel.errors import ProjectError
from headrace.kernel.secrets import looks_secret

__all__ = [
    "check_postgres_address",
    "check_postgres_password",
    "check_redis_address",
    "find_passwords",
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
_SCHEME = re.compile(r"[\w.+-]+://|[\w.-]+\+")  # of a URL, or the driver's name before an address of its own
_PORT = re.compile(r"\d+[/?]")
_WAYS = ("require_auth", "auth_type")  # parameters that name a way to log in, which is no secret
_PARAMETER = re.compile(r"(?P<key>\w+)\s*=\s*(?P<value>[^&;]+)")


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


def check_postgres_password(url: str, setting: str) -> None:
    """Checks that the password in the address of a PostgreSQL database, if it has one, is written as in a URL.

    Otherwise libpq takes a part of the password for the host or the port, and names that in its error.

    Raises:
        ProjectError: it has a sign that must be encoded.
    """
    user, at, _ = url.partition("://")[2].rpartition("@")
    if at and find_passwords(url) and set("/?#@") & set(user):
        raise ProjectError(
            "the password in the address has a sign that must be encoded",
            where=f"setting {setting}",
            remedy="Write / as %2F, ? as %3F, # as %23 and @ as %40; or take the password out of the address,"
            " and set PGPASSWORD or write ~/.pgpass.",
        )


def find_passwords(address: str) -> list[str]:
    """The passwords in the address of a database or server, as they are written and decoded; usually none.

    An address that is not a valid URL may have one too: `mysql+root:PASSWORD@tcp(host)/db`, or a password with
    a `/` or `@` that is not encoded. Then every text that it may be is returned.
    """
    scheme = _SCHEME.match(address)
    rest = address[scheme.end() :] if scheme else ""
    passwords = [
        match["value"].strip("{}")
        for match in _PARAMETER.finditer(rest)
        if looks_secret(match["key"]) and match["key"] not in _WAYS
    ]
    user, colon, _ = rest.partition(":")
    if colon and not set("@/[") & set(user):  # a path or the [host] of IPv6, which no user precedes
        start = len(user) + 1
        ends = [match.start() for match in re.finditer("@", rest)]
        passwords += [rest[start:end] for end in ends if not _PORT.match(rest[start:end])]
    return [*dict.fromkeys(text for word in passwords for text in (word, unquote(word)) if text)]


def _check_address(url: str, setting: str, server: str, source: str) -> None:
    where = f"setting {setting}"
    if find_passwords(url):
        raise ProjectError(
            f"the address of the {server} has a password in it",
            where=where,
            remedy=f"Take it out of the address: {source}.",
        )
    try:
        urlsplit(url)
    except ValueError:
        raise ProjectError(f"the address of the {server} is not a valid URL", where=where) from None
