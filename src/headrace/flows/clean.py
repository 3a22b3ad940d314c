"""clean: takes away what the project made on this machine: its state, and pointers to that state."""

from __future__ import annotations

import fcntl
import shutil
from dataclasses import dataclass
from pathlib import Path

from headrace.config.settings import Settings
from headrace.flows.running import running
from headrace.kernel.errors import Unavailable

__all__ = ["Found", "clean", "what"]

_POINTERS = ("pointers", "dvc.lock", "dvc.yaml", "models")


@dataclass(frozen=True)
class Found:
    """What there is to take away: the paths that exist, and their size in bytes."""

    paths: tuple[Path, ...]
    size: int


def what(settings: Settings) -> Found:
    """What `clean` would take away."""
    paths = tuple(
        path for path in (settings.state, *(settings.root / one for one in _POINTERS)) if path.exists()
    )
    return Found(paths, sum(_size(path) for path in paths))


def clean(settings: Settings) -> Found:
    """Takes it away: the state folder of this profile, and the pointers to what was in it.

    What lies on servers (a catalog, a bucket, an MLflow server) stays.

    Raises:
        Unavailable: `up` or a build is running on it.
    """
    up = running(settings)
    if up is not None:
        raise Unavailable(
            f"`headrace up` runs here, as process {up.pid}", remedy=f"End it first: kill {up.pid}"
        )
    lock = settings.place("build.lock")
    if lock.is_file():
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Unavailable("a build runs here", where=str(lock), remedy="Wait for its end.") from None
    found = what(settings)
    for path in found.paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return found


def _size(path: Path) -> int:
    files = (
        [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file() and not one.is_symlink()]
    )
    return sum(one.stat().st_size for one in files)
