"""Privacy of files: only this machine's user can read events, features, models and source.

The folders' permissions protect them. The umask is a second line of defence, for files in a folder that was
opened to other users.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["NO_PERMISSION", "is_open_to_others", "make_private", "set_private_umask", "user_umask"]

NO_PERMISSION = "Run it as the owner of that folder, or give this user the permission to read and write there."
"""The remedy of an error: this user may not write."""
_user_umask = -1


def make_private(folder: Path) -> Path:
    """Creates the folder and each missing parent with mode 0700; existing folders keep their mode. Returns it.

    Raises:
        OSError: a parent may not be written, or is a file.
    """
    for path in (*reversed(folder.parents), folder):
        path.mkdir(mode=0o700, exist_ok=True)
    return folder


def is_open_to_others(folder: Path) -> bool:
    """Whether other users than the folder's owner may enter or read it."""
    return bool(folder.stat().st_mode & 0o077)


def set_private_umask() -> int:
    """Sets the umask so that only this user can read new files of this process; returns the previous umask."""
    global _user_umask
    _user_umask = os.umask(0o077)
    return _user_umask


def user_umask() -> int:
    """The user's umask, for processes that write files of the project; -1 (subprocess: no change) if unset."""
    return _user_umask
