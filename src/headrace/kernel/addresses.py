"""Addresses of local files: the only module that converts paths to URLs, and URLs to paths.

A folder's name may contain any character, also `#`, `?` and `%41`. So the path in an address of Headrace is
never encoded, and never parsed as a URL. SQLAlchemy, and so MLflow, requires `%` and `?` to be encoded.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

__all__ = ["path_of", "path_of_sqlalchemy", "sqlalchemy_url", "sqlite_address"]

_SQLITE = "sqlite://"


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


def path_of_sqlalchemy(url: str) -> Path | None:
    """The SQLite file in a SQLAlchemy URL; None if it names another database."""
    dialect, _, path = url.partition(":///")
    if dialect not in ("sqlite", "sqlite+pysqlite"):
        return None
    return Path(unquote(path.partition("?")[0]))
