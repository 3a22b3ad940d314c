"""clean: takes away what the project made on this machine: its state, and pointers to that state."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from headrace.config.settings import Settings
from headrace.flows.build import hold_build_lock
from headrace.kernel.faults import reach
from headrace.projects.running import hold_up_lock

__all__ = ["Found", "clean", "what"]

_POINTERS = ("pointers", "dvc.lock", "dvc.yaml", "models")


@dataclass(frozen=True)
class Found:
    """What there is to take away: the paths that exist, and their size in bytes."""

    paths: tuple[Path, ...]
    size: int


def what(settings: Settings) -> Found:
    """What `clean` would take away."""
    places = (*(settings.root / one for one in _POINTERS), settings.state, _trash(settings))
    paths = tuple(path for path in places if path.exists())
    return Found(paths, sum(_size(path) for path in paths))


def clean(settings: Settings) -> Found:
    """Takes it away: the state folder of this profile, and the pointers to what was in it.

    What lies on servers (a catalog, a bucket, an MLflow server) stays. No build and no `up` begins before
    all is gone.

    Raises:
        Unavailable: `up` or a build is running on it.
    """
    if not what(settings).paths:
        return Found((), 0)
    with hold_up_lock(settings), hold_build_lock(settings):
        found = what(settings)
        for path in found.paths:
            if path == settings.state:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        reach("clean.state")
        # In one step, with the locks in it: what begins from now on begins anew.
        settings.state.rename(_trash(settings))
    shutil.rmtree(_trash(settings))
    return found


def _trash(settings: Settings) -> Path:
    return settings.state.with_name(f".{settings.state.name}.gone")


def _size(path: Path) -> int:
    files = (
        [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file() and not one.is_symlink()]
    )
    return sum(one.stat().st_size for one in files)
