"""Artefacts: the files of models on this machine, in folders named after the digest of the files."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from headrace.kernel import faults
from headrace.kernel.digest import digest_file, digest_value
from headrace.kernel.errors import Refused
from headrace.kernel.files import move_into_place, remove_path
from headrace.kernel.ids import new_id
from headrace.kernel.private import make_private

__all__ = ["digest_artifact", "find_artifact", "is_intact", "remove_artifacts", "store_artifact"]

_placing = threading.Lock()  # one process at a time deploys


def store_artifact(root: Path, download: Callable[[Path], Path]) -> str:
    """Stores an artefact; returns its digest. A reader sees its folder whole or not at all.

    A copy that is there already is replaced if a file of it was changed.

    Args:
        root: the folder of all artefacts.
        download: downloads the files into a folder; returns the folder that they are in.

    Raises:
        Refused: the artefact holds something that is not a plain file.
        Unavailable: the files cannot be downloaded.
    """
    draft = make_private(root / f".{new_id()}")
    try:
        files = download(draft)
        digest = digest_artifact(files)
        folder = root / digest
        with _placing:  # models that are prepared at the same time may have equal files
            if not is_intact(root, digest):
                if folder.exists():
                    folder.rename(make_private(draft / "changed") / digest)
                move_into_place(files, folder)
                faults.reach("artifacts.after_place")
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return digest


def is_intact(root: Path, digest: str) -> bool:
    """Whether this machine has an artefact with the files of this digest."""
    try:
        find_artifact(root, digest)
    except Refused:
        return False
    return True


def find_artifact(root: Path, digest: str) -> Path:
    """The folder of an artefact, after a check of its files.

    Raises:
        Refused: this machine lacks it, or a file was changed.
    """
    folder = root / digest
    if not folder.is_dir():
        raise Refused("its artefact is not on this machine", where=str(folder), remedy="Run headrace deploy.")
    if digest_artifact(folder) != digest:
        raise Refused("a file of its artefact was changed", where=str(folder), remedy="Run headrace deploy.")
    return folder


def digest_artifact(folder: Path) -> str:
    """The digest of the names and contents of all files of a folder.

    Raises:
        Refused: it holds something that is not a plain file, such as a link.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise Refused("its artefact holds something that is not a plain file", where=name)
        if path.is_file():
            files[name] = digest_file(path)
    return digest_value(files)


def remove_artifacts(root: Path, keep: Collection[str]) -> None:
    """Removes each artefact whose digest is not in `keep`, and the drafts that killed processes left."""
    for folder in root.glob("*"):
        if folder.name not in keep:
            remove_path(folder)
