"""Addresses of local files: the one place that makes a URL of a path, and a path of a URL.

Any character may stand in a folder's name, also `#`, `?` and `%41`. In an address of ours the path stands
as it is, and nothing of it is read as a URL. SQLAlchemy, and so MLflow, wants `%` and `?` encoded.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

__all__ = ["path_of", "path_of_sqlalchemy", "sqlalchemy_url", "sqlite_address"]

_SQLITE = "sqlite://"


def sqlite_address(path: Path) -> str:
    """The address of a SQLite file, or of a folder of them: `sqlite://` and the absolute path as it is."""
    return f"{_SQLITE}{path}"


def path_of(address: str) -> Path:
    """The path in an address that `sqlite_address` made, or that a user wrote like it."""
    return Path(address.removeprefix(_SQLITE))


def sqlalchemy_url(path: Path) -> str:
    """The URL under which SQLAlchemy opens a SQLite file at an absolute path: `sqlite:////...`."""
    encoded = str(path).replace("%", "%25").replace("?", "%3F")
    # MLflow makes the folder in a sqlite:/// URL by its encoded name; with a driver named it makes none.
    driver = "" if encoded == str(path) else "+pysqlite"
    return f"sqlite{driver}:///{encoded}"


def path_of_sqlalchemy(url: str) -> Path | None:
    """The SQLite file that a URL of SQLAlchemy's names; None where it names another database."""
    dialect, _, path = url.partition(":///")
    if dialect not in ("sqlite", "sqlite+pysqlite"):
        return None
    return Path(unquote(path.partition("?")[0]))
