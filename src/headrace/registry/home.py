"""The embedded MLflow store after its folder was moved or copied: it holds absolute addresses of artifacts.

A moved store would not find them, and runs of a copied project would write theirs into the original.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from headrace.kernel.errors import Unavailable

__all__ = ["settle"]

_BUSY_SECONDS = 15
# MLflow's own tables (3.17), where a run's, a version's or a model's files are named.
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)


def settle(store: Path, experiment: str, artifacts: Path) -> None:
    """Lets every address that lay in the experiment's folder lie in `artifacts`, in one transaction.

    Args:
        store: MLflow's SQLite file; nothing is done where there is none.
        experiment: the name of the project's experiment.
        artifacts: where the files of its runs are now.

    Raises:
        Unavailable: the file is locked, or is no store of MLflow's.
    """
    if not store.is_file():
        return
    try:
        with closing(sqlite3.connect(store, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
            before = _location(connection, experiment)
            if before is None or before == artifacts.as_uri() or _is_same(before, artifacts):
                return
            connection.execute("BEGIN IMMEDIATE")
            for table, column in _ADDRESSES:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?)"  # noqa: S608  (names of this file)
                    f" WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    [artifacts.as_uri(), len(before) + 1, before, len(before) + 1, f"{before}/"],
                )
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise Unavailable(
            f"MLflow's store cannot be read or written: {error}",
            where=str(store),
            remedy="End the process that holds it (a copy, a database browser?), and try again.",
        ) from error


def _location(connection: sqlite3.Connection, experiment: str) -> str | None:
    try:
        row = connection.execute(
            "SELECT artifact_location FROM experiments WHERE name = ?", [experiment]
        ).fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):  # MLflow is making its store just now
            return None
        raise
    return None if row is None else str(row[0])


def _is_same(address: str, folder: Path) -> bool:
    try:
        return folder.samefile(unquote(urlsplit(address).path))
    except OSError:
        return False
