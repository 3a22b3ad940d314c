"""Atomic writes: after a crash a file has its old content or its new content, never a part.

The new content is written to a draft beside the file and synced to the disk. Then the draft takes the file's
name, and the folder is synced, so that the new name survives a loss of power too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["create_file", "move_into_place", "replace_file", "sync_folder", "write_file"]


def write_file(path: Path, content: bytes | str, *, mode: int = 0o666, sync: bool = True) -> None:
    """Replaces the file's content, or creates the file.

    Args:
        path: the file; its folder must exist.
        content: the whole new content; text is written as UTF-8.
        mode: permissions of the new file, before the umask.
        sync: whether it is synced to the disk. If not, a crash of the machine may leave the file empty.

    Raises:
        OSError: the disk is full, or the folder may not be written. The old file then stays unchanged.
    """
    with replace_file(path, mode=mode, sync=sync) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replace_file(path: Path, *, mode: int = 0o666, sync: bool = True) -> Iterator[BinaryIO]:
    """Opens a draft for binary writing, which takes the name `path` when the block ends.

    If the block raises, the old file stays. Raises OSError as `write_file`.
    """
    draft = _draft_of(path)
    try:
        with open(draft, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if sync:
        sync_folder(path.parent)


def create_file(path: Path, content: bytes | str, *, mode: int = 0o666) -> bool:
    """Creates the file with its whole content unless it exists; returns whether it was created.

    If several processes do this at once, one creates the file, and no process sees a part of it. Raises OSError
    as `write_file`.
    """
    if path.exists():
        return False
    draft = _draft_of(path)
    try:
        write_file(draft, content, mode=mode)
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def move_into_place(draft: Path, path: Path) -> None:
    """Renames a finished folder to `path`, once all its files are on the disk.

    Raises:
        OSError: `path` is a folder that is not empty, or the folder may not be written.
    """
    for folder, _, names in os.walk(draft):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(folder))
    os.replace(draft, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Waits until the names in the folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
