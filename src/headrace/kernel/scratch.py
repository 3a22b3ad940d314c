"""Scratch folders: a folder lives at most as long as the process that uses it, however that ends."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from headrace.kernel.ids import new_id
from headrace.kernel.lock import try_lock_open
from headrace.kernel.private import make_private

__all__ = ["make_scratch"]

_PREFIX = "headrace-scratch-"


@contextmanager
def make_scratch(parent: Path | None = None) -> Iterator[Path]:
    """A private folder in `parent`, removed after the block. Those of killed processes are removed too.

    Args:
        parent: it is made if it is missing. None: the system's temporary folder.

    Raises:
        OSError: the disk is full, or the folder may not be written.
    """
    parent = parent or Path(tempfile.gettempdir())
    make_private(parent)
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another process removes it, or it is another user's
            _remove_dead(folder)
    folder, lock = _make_locked(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _make_locked(parent: Path) -> tuple[Path, int]:
    while True:
        folder = parent / f"{_PREFIX}{new_id()}"
        folder.mkdir(mode=0o700)
        with suppress(FileNotFoundError):  # _remove_dead came before the lock
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            if try_lock_open(lock) and folder.exists():
                return folder, lock
            os.close(lock)


def _remove_dead(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if try_lock_open(lock):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
