"""clean: deletes what the project made on this machine: its state, and the pointers to that state."""

from __future__ import annotations

import shutil
from pathlib import Path

from msgspec import Struct

from headrace.config.settings import Settings
from headrace.flows.build import hold_build_lock
from headrace.flows.build.dvc_yaml import is_own_dvc_yaml
from headrace.flows.build.plots import metrics_file, plots_folder
from headrace.flows.build.pointers import CODE, Pointers
from headrace.kernel.faults import reach
from headrace.projects.running import hold_up_lock

__all__ = ["Leftovers", "clean", "find_leftovers"]

_POINTERS = ("pointers", "models")
_PIPELINE = ("dvc.lock", "dvc.yaml")


class Leftovers(Struct, frozen=True):
    """What `clean` deletes: the paths that exist, and their size in bytes."""

    paths: tuple[Path, ...]
    size: int


def find_leftovers(settings: Settings) -> Leftovers:
    """What `clean` would delete."""
    pipeline = _PIPELINE if is_own_dvc_yaml(settings.root) else ()
    files = (*_POINTERS, *pipeline, *_files_of_models(settings))
    places = (*(settings.root / name for name in files), settings.state, _trash(settings))
    paths = tuple(path for path in places if path.exists())
    return Leftovers(paths, sum(_size(path) for path in paths))


def clean(settings: Settings) -> Leftovers:
    """Deletes the state folder of this profile, and the pointers to what was in it.

    Data on servers (a catalog, a bucket, an MLflow server, an online store in PostgreSQL) are kept; the next
    build fills such a store anew, because it is of another log and lake. No build and no `up` can start before
    everything is deleted.

    Raises:
        Unavailable: `up` or a build is running on the project.
    """
    if not find_leftovers(settings).paths:
        return Leftovers((), 0)
    with hold_up_lock(settings), hold_build_lock(settings):
        leftovers = find_leftovers(settings)
        for path in leftovers.paths:
            if path == settings.state:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        reach("clean.state")
        # Renamed in one step, with its locks, so that a process that starts now finds an empty project.
        settings.state.rename(_trash(settings))
    shutil.rmtree(_trash(settings))
    return leftovers


def _files_of_models(settings: Settings) -> list[str]:
    """The metrics and plots of the models that were built. The user may have other files beside them."""
    code = Pointers(settings.root).read(CODE) or {}
    return [file for model in code.get("models", ()) for file in (metrics_file(model), plots_folder(model))]


def _trash(settings: Settings) -> Path:
    return settings.state.with_name(f".{settings.state.name}.deleted")


def _size(path: Path) -> int:
    files = (
        [path]
        if path.is_file()
        else [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
    )
    return sum(file.stat().st_size for file in files)
