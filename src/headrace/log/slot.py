"""Member slots: number a machine's members of one group; each number belongs to one living process.

A slot is a locked file, which the kernel unlocks when its holder dies in any way. So a process that is started
after another was killed gets the same number, and so the name that the group knows.
"""

from __future__ import annotations

import socket
from itertools import count
from pathlib import Path
from typing import IO

from headrace.kernel.digest import short_digest
from headrace.kernel.errors import Unavailable
from headrace.kernel.lock import try_lock
from headrace.kernel.private import make_private

__all__ = ["MemberSlot"]


class MemberSlot:
    """The smallest free number of a group in this folder. It is held until `close`.

    Attributes:
        name: a unique name, made of the machine, the folder and the number.
    """

    def __init__(self, folder: Path, group: str) -> None:
        """Raises Unavailable if the folder cannot be created or written."""
        try:
            make_private(folder)
            number, self._file = _lock_smallest(folder, group)
        except OSError as error:
            raise Unavailable(
                f"the slot of a member of {group} cannot be locked: {error.strerror}",
                where=str(folder),
                remedy="Give this user the permission to write there.",
            ) from error
        machine = short_digest(f"{socket.gethostname()} {folder.resolve()}")
        self.name = f"{machine}-{number}"

    def close(self) -> None:
        """Frees the number."""
        self._file.close()


def _lock_smallest(folder: Path, group: str) -> tuple[int, IO[str]]:
    for number in count():
        file = try_lock(folder / f"{group}-{number}.lock")
        if file is not None:
            return number, file
    raise AssertionError("unreachable: count() does not end")
