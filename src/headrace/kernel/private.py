"""Privacy of files: events, features, models and source are for this machine's user alone.

The folders' permissions protect them. The umask is a second line of defence, for files in a folder that
somebody opened to others.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["is_open_to_others", "make_private", "set_private_umask", "user_umask"]

_user_umask = -1


def make_private(folder: Path) -> Path:
    """Makes the folder and each missing parent with mode 0700. Existing folders keep their mode. Returns it.

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
    """Sets the umask so that this process makes files for its user alone. Returns the umask before."""
    global _user_umask
    _user_umask = os.umask(0o077)
    return _user_umask


def user_umask() -> int:
    """The umask for a process that writes files of the project itself, as subprocess takes it."""
    return _user_umask
