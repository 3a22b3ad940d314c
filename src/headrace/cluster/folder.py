"""The private folder of a project's Ray, in /tmp, because sockets need short paths."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from headrace.config.settings import Settings
from headrace.kernel.digest import short_digest
from headrace.kernel.errors import Unavailable
from headrace.kernel.process import mark_of

__all__ = ["remove_dead_sessions", "runtime_folder"]

_TEMPORARY = Path("/tmp")  # noqa: S108  runtime_folder checks that only this user can enter its folder


def runtime_folder(settings: Settings) -> Path:
    """The folder (0700) for the sockets of this project and profile, which is made if it is missing.

    A socket's path may have at most 107 characters, and the path of a state folder may be longer.

    Raises:
        Unavailable: another user owns the folder or can enter it.
    """
    digest = short_digest(str(settings.state.resolve()))[:8]
    folder = _TEMPORARY / f"headrace-{digest}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if (
        not stat.S_ISDIR(status.st_mode)
        or status.st_uid != os.getuid()
        or stat.S_IMODE(status.st_mode) != 0o700
    ):
        raise Unavailable(
            "another user owns the folder or can enter it", where=str(folder), remedy="Remove it."
        )
    return folder


def remove_dead_sessions(folder: Path) -> None:
    """Removes the logs and sockets of each Ray whose starter has ended. Names of sessions end with its id."""
    for session in folder.glob("session_*_*"):
        if not mark_of(int(session.name.rpartition("_")[2])):
            shutil.rmtree(session, ignore_errors=True)
