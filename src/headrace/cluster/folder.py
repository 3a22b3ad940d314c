"""The private folder of a project's Ray, in /tmp: sockets need short paths."""

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

_TEMPORARY = Path("/tmp")  # noqa: S108  the folder made in it is checked to be ours alone


def runtime_folder(settings: Settings) -> Path:
    """A folder of this project and profile for sockets, 0700, with a path short enough for them.

    A socket's path may have 107 characters, which a state folder may use up by itself.

    Raises:
        Unavailable: somebody else made the folder, or others may enter it.
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
        raise Unavailable("others may enter the folder", where=str(folder), remedy="Remove it.")
    return folder


def remove_dead_sessions(folder: Path) -> None:
    """Removes the logs and sockets of each Ray whose starter has ended; their names end with its process id."""
    for session in folder.glob("session_*_*"):
        if not mark_of(int(session.name.rpartition("_")[2])):
            shutil.rmtree(session, ignore_errors=True)
