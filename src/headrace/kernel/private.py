"""What is kept on this machine is for its user alone: events, features, models, the source.

The folders are what protects it; the umask is a second line, for what is written into a folder that
somebody opened to others.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["is_open_to_others", "make_private", "set_private_umask", "user_umask"]

_user_umask = -1


def make_private(folder: Path) -> Path:
    """Makes the folder and each parent that is missing, 0700; what is there stays as it is. Returns it.

    Raises:
        OSError: a parent may not be written, or is a file.
    """
    for path in (*reversed(folder.parents), folder):
        path.mkdir(mode=0o700, exist_ok=True)
    return folder


def is_open_to_others(folder: Path) -> bool:
    """Whether others than the folder's user may enter or read it."""
    return bool(folder.stat().st_mode & 0o077)


def set_private_umask() -> int:
    """From now on this process makes files for its user alone. Returns the umask before."""
    global _user_umask
    _user_umask = os.umask(0o077)
    return _user_umask


def user_umask() -> int:
    """The umask for a process that writes files of the project itself, as subprocess takes it."""
    return _user_umask
