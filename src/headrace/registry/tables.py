"""MLflow's tables, asked without MLflow: `status`, `why` and a rollback do not wait 4 s for its import.

Each raises sqlite3.Error where the tables are others: MLflow is asked then.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from msgspec import Struct

from headrace.kernel.time import from_micros

__all__ = ["Version", "delete_alias", "read_alias", "read_version", "write_alias"]


class Version(Struct, frozen=True, kw_only=True):
    """One registered version of one model.

    Attributes:
        model, version: its name and number.
        run_id: the MLflow run it came from.
        tags: MLflow's and Headrace's (`headrace.*`).
        metrics, params: those of the run.
        aliases: such as `champion` and `challenger`.
        created: when it was registered.
    """

    model: str
    version: int
    run_id: str
    tags: dict[str, str]
    metrics: dict[str, float]
    params: dict[str, str]
    aliases: tuple[str, ...]
    created: datetime


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=5)) as db:
        yield db


@contextlib.contextmanager
def _writing(file: Path) -> Iterator[sqlite3.Connection]:
    """One transaction on the store's file, which must be there."""
    with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=15)) as db, db:
        yield db


def read_alias(file: Path, model: str, alias: str) -> int | None:
    """The version that the alias stands for, or None."""
    with _reading(file) as db:
        row = db.execute(
            "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?", [model, alias]
        ).fetchone()
    return None if row is None else int(row[0])


def write_alias(file: Path, model: str, alias: str, version: int) -> bool:
    """Whether there is such a version; the alias stands for it then."""
    with _writing(file) as db:
        done = db.execute(
            "INSERT OR REPLACE INTO registered_model_aliases (alias, version, name, workspace)"
            " SELECT ?, version, name, workspace FROM model_versions WHERE name = ? AND version = ?",
            [alias, model, version],
        )
        return done.rowcount == 1


def delete_alias(file: Path, model: str, alias: str) -> None:
    """Takes the alias away, where there is one."""
    with _writing(file) as db:
        db.execute("DELETE FROM registered_model_aliases WHERE name = ? AND alias = ?", [model, alias])


def read_version(file: Path, model: str, ref: int | str) -> Version | None:
    """The version by its number or alias, or None."""
    number = int(ref) if isinstance(ref, int) or ref.isdecimal() else read_alias(file, model, ref)
    with _reading(file) as db:
        db.execute("BEGIN")  # one moment for all that is read
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
