"""Reads and writes MLflow's tables without MLflow: `status`, `why` and a rollback save its import of 4 s.

The tables are those of internals.TABLES. Each function raises sqlite3.Error if the file lacks them; the caller
then asks MLflow.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from headrace.kernel.properties import PROJECT
from headrace.kernel.time import from_micros
from headrace.registry.version import Version

__all__ = ["delete_alias", "list_versions", "read_alias", "read_project", "read_version", "write_alias"]


@contextlib.contextmanager
def _open_to_read(file: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=5)) as db:
        yield db


@contextlib.contextmanager
def _open_to_write(file: Path) -> Iterator[sqlite3.Connection]:
    """A transaction on the store's file, which must exist."""
    with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=15)) as db, db:
        yield db


def read_alias(file: Path, model: str, alias: str) -> int | None:
    """The version that the alias points at, or None."""
    with _open_to_read(file) as db:
        row = db.execute(
            "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?", [model, alias]
        ).fetchone()
    return None if row is None else int(row[0])


def write_alias(file: Path, model: str, alias: str, version: int) -> bool:
    """Points the alias at the version; returns whether the version exists."""
    with _open_to_write(file) as db:
        result = db.execute(
            "INSERT OR REPLACE INTO registered_model_aliases (alias, version, name, workspace)"
            " SELECT ?, version, name, workspace FROM model_versions WHERE name = ? AND version = ?",
            [alias, model, version],
        )
        return result.rowcount == 1


def delete_alias(file: Path, model: str, alias: str) -> None:
    """Deletes the alias, if there is one."""
    with _open_to_write(file) as db:
        db.execute("DELETE FROM registered_model_aliases WHERE name = ? AND alias = ?", [model, alias])


def read_project(file: Path, model: str) -> tuple[bool, str | None]:
    """Whether the store has the model, and the project that its tag names, or None."""
    with _open_to_read(file) as db:
        row = db.execute(
            "SELECT tag.value FROM registered_models AS model LEFT JOIN registered_model_tags AS tag"
            " ON tag.name = model.name AND tag.key = ? WHERE model.name = ?",
            [PROJECT, model],
        ).fetchone()
    return (False, None) if row is None else (True, row[0])


def list_versions(file: Path, model: str) -> tuple[list[int], list[str]]:
    """The numbers of the model's versions, and its aliases."""
    with _open_to_read(file) as db:
        db.execute("BEGIN")  # both queries see the same state
        numbers = db.execute(
            "SELECT version FROM model_versions WHERE name = ? AND current_stage <> 'Deleted_Internal'", [model]
        ).fetchall()
        aliases = db.execute("SELECT alias FROM registered_model_aliases WHERE name = ?", [model]).fetchall()
    return [int(number) for (number,) in numbers], [str(alias) for (alias,) in aliases]


def read_version(file: Path, model: str, ref: int | str) -> Version | None:
    """The version by its number or alias, or None."""
    number = int(ref) if isinstance(ref, int) or ref.isdecimal() else read_alias(file, model, ref)
    with _open_to_read(file) as db:
        db.execute("BEGIN")  # all queries see the same state
        row = db.execute(
            "SELECT run_id, creation_time FROM model_versions WHERE name = ? AND version = ?"
            " AND current_stage <> 'Deleted_Internal'",
            [model, number],
        ).fetchone()
        if row is None or number is None:
            return None
        run, created = row
        tags = db.execute(
            "SELECT key, value FROM model_version_tags WHERE name = ? AND version = ?", [model, number]
        )
        aliases = db.execute(
            "SELECT alias FROM registered_model_aliases WHERE name = ? AND version = ?", [model, number]
        )
        metrics = db.execute("SELECT key, value, is_nan FROM latest_metrics WHERE run_uuid = ?", [run])
        params = db.execute("SELECT key, value FROM params WHERE run_uuid = ?", [run])
        return Version(
            model=model,
            version=number,
            run_id=run,
            tags=dict(tags),
            metrics={key: math.nan if is_nan else value for key, value, is_nan in metrics},
            params=dict(params),
            aliases=tuple(sorted(alias for (alias,) in aliases)),
            created=from_micros(created * 1000),
        )
