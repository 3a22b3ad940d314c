"""Atomic writes: after a crash a file has its old content or its new content, never a part.

The new content is written to a draft beside the file and synced to the disk. Then the draft takes the file's
name, and the folder is synced, so that the new name survives a loss of power too. A draft is locked while it is
written: one without a lock is what a killed process left.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from headrace.kernel.lock import try_lock_open

__all__ = [
    "create_draft",
    "create_file",
    "move_into_place",
    "remove_dead_drafts",
    "remove_path",
    "replace_file",
    "sync_folder",
    "write_file",
]

_DRAFT = ".headrace"  # the end of a draft's name, `.NAME.HEX.headrace`
_OF_DATABASE = ("-journal", "-wal", "-shm")  # the ends of files that SQLite keeps beside a draft


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
    with _open_draft(path, mode) as (draft, file):
        yield file
        file.flush()
        if sync:
            os.fsync(file.fileno())
        os.replace(draft, path)
    if sync:
        sync_folder(path.parent)


def create_file(path: Path, content: bytes | str, *, mode: int = 0o666) -> bool:
    """Creates the file with its whole content unless it exists; returns whether it was created.

    If several processes do this at once, one creates the file, and no process sees a part of it. Raises OSError
    as `write_file`.
    """
    if path.exists():
        return False
    with _open_draft(path, mode) as (draft, file):
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
    sync_folder(path.parent)
    return True


def create_draft(path: Path, *, mode: int = 0o666, flags: int = 0) -> tuple[Path, int]:
    """Creates a draft of the file beside it, which the caller renames or removes.

    Args:
        path: the file; its folder must exist.
        mode: permissions of the new file, before the umask.
        flags: flags of os.open.

    Returns:
        The draft and its descriptor, which locks it until it is closed.

    Raises:
        OSError: the disk is full, or the folder may not be written.
    """
    while True:
        draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}{_DRAFT}")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags, mode)
        except OSError as error:
            error.filename = str(path)  # the reader of the message knows this name
            raise
        if try_lock_open(descriptor) and os.fstat(descriptor).st_nlink:
            return draft, descriptor
        os.close(descriptor)  # remove_dead_drafts came before the lock


def remove_dead_drafts(folder: Path) -> None:
    """Removes the folder's drafts whose writers were killed. Each write of a file in the folder does it."""
    for draft in folder.glob(f".*.????????{_DRAFT}"):
        with suppress(FileNotFoundError, PermissionError), draft.open("rb") as file:
            if try_lock_open(file.fileno()):
                for end in _OF_DATABASE:
                    draft.with_name(draft.name + end).unlink(missing_ok=True)
                draft.unlink()


def remove_path(path: Path) -> None:
    """Removes a file, or a folder with all that is in it. Raises OSError: it may not be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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


@contextmanager
def _open_draft(path: Path, mode: int) -> Iterator[tuple[Path, BinaryIO]]:
    """Opens a draft, which is removed if the block raises, and removes dead ones."""
    remove_dead_drafts(path.parent)
    draft, descriptor = create_draft(path, mode=mode)
    try:
        with open(descriptor, "wb") as file:
            yield draft, file
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
