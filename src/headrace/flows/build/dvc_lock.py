"""Reads and edits dvc.lock, DVC's record of each stage, without loading DVC's repository."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.stage.serialize import to_lockfile
from dvc.utils.serialize import dumps_yaml, load_yaml
from msgspec import Struct

from headrace.kernel.errors import HeadraceError, ProjectError, Unavailable
from headrace.kernel.files import write_file

__all__ = ["StageRecord", "read_lock", "record_stage", "remove_stage", "translate_errors"]


class StageRecord(Struct, frozen=True):
    """A stage as it last ran: file → MD5, and file of parameters → entry → value."""

    files: dict[str, str]
    params: dict[str, dict[str, Any]]


def read_lock(root: Path) -> dict[str, StageRecord]:
    """Stage → its record in dvc.lock. Stages that have never run are left out."""
    file = root / "dvc.lock"
    if not file.is_file():
        return {}
    with translate_errors(root):
        stages = load_yaml(str(file)).get("stages", {})
    return {
        name: StageRecord(
            files={entry["path"]: entry["md5"] for kind in ("deps", "outs") for entry in stage.get(kind, ())},
            params=stage.get("params", {}),
        )
        for name, stage in stages.items()
    }


def record_stage(root: Path, stage: Any) -> None:
    """Writes DVC's stage, as it ran now, into dvc.lock, whole or not at all.

    DVC empties the file before it writes it: a process that is killed then leaves a file that no build reads.
    """
    file = root / "dvc.lock"
    lock: dict[str, Any] = load_yaml(str(file)) if file.is_file() else {"schema": "2.0"}
    lock.setdefault("stages", {}).update(to_lockfile(stage))
    write_file(file, dumps_yaml(lock))


def remove_stage(root: Path, stage: str) -> None:
    """Removes a stage from dvc.lock, if it is there, as if it had never run."""
    file = root / "dvc.lock"
    if not file.is_file():
        return
    with translate_errors(root):
        lock = load_yaml(str(file))
        if lock.get("stages", {}).pop(stage, None) is not None:
            write_file(file, dumps_yaml(lock))


@contextmanager
def translate_errors(root: Path) -> Iterator[None]:
    """Raises DVC's errors as Headrace's."""
    try:
        yield
    except HeadraceError:
        raise
    except LockError as error:
        raise Unavailable(
            "another DVC command is running on this project", where=str(root), remedy="Wait until it has ended."
        ) from error
    except DvcException as error:
        raise ProjectError(
            f"DVC reports: {error}",
            where=str(root / "dvc.yaml"),
            remedy="dvc.yaml is written by headrace build; delete dvc.lock if a merge left it broken.",
        ) from error
