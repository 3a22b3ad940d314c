"""The private folder of a project's Ray, in /tmp, because sockets need short paths.

Each process that uses a folder holds a lock on it, which ends with the process however it ends. A folder
without a lock is removed: when a process that used it ends, and when another begins to use its own folder.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from headrace.config.settings import Settings
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import Unavailable
from headrace.kernel.lock import share_lock_open, try_lock_open
from headrace.kernel.process import mark_of

__all__ = ["remove_dead_sessions", "remove_unused_folders", "runtime_folder"]

_TEMPORARY = Path("/tmp")  # noqa: S108  runtime_folder checks that only this user can enter its folder
_NAMES = "headrace.????????"  # not as temporary folders are named, whose last part follows a hyphen
_locks: dict[Path, int] = {}  # folder → the open folder that holds this process's lock


def runtime_folder(settings: Settings) -> Path:
    """The folder (0700) for the sockets of this project and profile, which is made if it is missing.

    It stays at least as long as this process lives. A socket's path may have at most 107 characters, and the
    path of a state folder may be longer.

    Raises:
        Unavailable: another user owns the folder or can enter it.
    """
    digest = short_digest(str(settings.state.resolve()))[:8]
    folder = _TEMPORARY / f"headrace.{digest}"
    while not _is_locked(folder):
        with suppress(FileNotFoundError):  # another process removed it before it was locked
            _lock(folder)
    return folder


def remove_unused_folders() -> None:
    """Removes this user's folders that no process uses."""
    for folder in _TEMPORARY.glob(_NAMES):
        with suppress(OSError):  # another process removes it
            if not _is_private(folder):
                continue
            descriptor = _open(folder)
            try:
                if try_lock_open(descriptor):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def remove_dead_sessions(folder: Path) -> None:
    """Removes the logs and sockets of each Ray whose starter has ended. Names of sessions end with its id."""
    for session in folder.glob("session_*_*"):
        starter = session.name.rpartition("_")[2]
        if starter.isdecimal() and not mark_of(int(starter)):
            shutil.rmtree(session, ignore_errors=True)


def _lock(folder: Path) -> None:
    """Makes the folder unless it exists, and locks it until this process ends."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not _is_private(folder):
        raise Unavailable(
            "another user owns the folder or can enter it", where=str(folder), remedy="Remove it."
        )
    descriptor = _open(folder)
    share_lock_open(descriptor)
    if not _locks:
        remove_unused_folders()
        atexit.register(_end_use)
    if folder in _locks:
        os.close(_locks[folder])
    _locks[folder] = descriptor


def _is_locked(folder: Path) -> bool:
    """Whether this process has locked the folder, and it was not removed or opened to others since."""
    descriptor = _locks.get(folder)
    try:
        return (
            descriptor is not None
            and os.path.samestat(os.fstat(descriptor), folder.lstat())
            and _is_private(folder)
        )
    except FileNotFoundError:
        return False


def _is_private(folder: Path) -> bool:
    """Whether it is a folder of this user that no other user can enter."""
    status = folder.lstat()
    return (
        stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) == 0o700
    )


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _end_use() -> None:
    for descriptor in _locks.values():
        os.close(descriptor)
    _locks.clear()
    remove_unused_folders()
