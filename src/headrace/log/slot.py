"""Slots: the numbers of a machine's members of one group, each held by a living process alone.

A slot is a locked file, which the kernel unlocks when its holder dies, however that dies: who is
started again takes the number of who was killed, and with it the name the others knew it by.
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

__all__ = ["Slot"]


class Slot:
    """The smallest number of a group that nobody holds in this folder. It is held until `close`.

    Attributes:
        name: tells this machine, folder and number from all others.
    """

    def __init__(self, folder: Path, group: str) -> None:
        """Raises Unavailable where the folder cannot be made or written."""
        try:
            make_private(folder)
            number, self._file = _taken(folder, group)
        except OSError as error:
            raise Unavailable(
                f"a member of {group} cannot be noted: {error.strerror}",
                where=str(folder),
                remedy="Give this user the right to write there.",
            ) from error
        machine = short_digest(f"{socket.gethostname()} {folder.resolve()}")
        self.name = f"{machine}-{number}"

    def close(self) -> None:
        """Gives it up."""
        self._file.close()


def _taken(folder: Path, group: str) -> tuple[int, IO[str]]:
    for number in count():
        file = try_lock(folder / f"{group}-{number}.lock")
        if file is not None:
            return number, file
    raise AssertionError("numbers do not end")
