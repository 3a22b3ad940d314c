"""Updates the embedded MLflow store after its folder was moved or copied.

MLflow stores absolute addresses of artifacts. A moved store would not find its artifacts, and the runs of a
copied project would write theirs into the original.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from headrace.kernel.sqlite import name_errors, transaction
from headrace.registry.internals import ADDRESSES

__all__ = ["relocate"]

_BUSY_SECONDS = 15


def relocate(store: Path, experiment: str, artifacts: Path) -> None:
    """Replaces the experiment's previous folder by `artifacts` in every address, in one transaction.

    Args:
        store: MLflow's SQLite file; if it does not exist, nothing is done.
        experiment: the name of the project's experiment.
        artifacts: where the files of its runs are now.

    Raises:
        Unavailable: the file is locked, or is not an MLflow store.
    """
    if not store.is_file():
        return
    with (
        name_errors("MLflow's store", store),
        closing(sqlite3.connect(store, timeout=_BUSY_SECONDS, isolation_level=None)) as connection,
    ):
        before = _find_location(connection, experiment)
        if before is None or before == artifacts.as_uri() or not _is_elsewhere(before, artifacts):
            return
        with transaction(connection):
            for table, column in ADDRESSES:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?)"  # noqa: S608  (names of internals)
                    f" WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    [artifacts.as_uri(), len(before) + 1, before, len(before) + 1, f"{before}/"],
                )


def _find_location(connection: sqlite3.Connection, experiment: str) -> str | None:
    try:
        row = connection.execute(
            "SELECT artifact_location FROM experiments WHERE name = ?", [experiment]
        ).fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):  # MLflow is still making its store
            return None
        raise
    return None if row is None else str(row[0])


def _is_elsewhere(address: str, folder: Path) -> bool:
    """Whether the address is that of a folder which is neither this one nor in it.

    An experiment that a server made lies in a folder of its own, or behind the server (mlflow-artifacts:/1).
    """
    parts = urlsplit(address)
    if parts.scheme != "file":
        return False
    path = Path(unquote(parts.path))
    return not path.resolve().is_relative_to(folder.resolve())
