"""The project's running `up`: its addresses and processes, which it records in the state folder."""

from __future__ import annotations

from datetime import datetime
from typing import IO

import msgspec
from msgspec import Struct

from headrace.config.settings import Settings
from headrace.kernel.errors import Unavailable
from headrace.kernel.files import write_file
from headrace.kernel.lock import find_holder, try_lock

__all__ = ["Up", "find_up", "hold_up_lock", "remove_up", "write_up"]


class Up(Struct, frozen=True):
    """A running `up`.

    Attributes:
        pid: its process id.
        started: when it started.
        predict, collector, console: the addresses of its HTTP servers.
        processes: name → process id of its children.
    """

    pid: int
    started: datetime
    predict: str
    collector: str
    console: str
    processes: dict[str, int]


def find_up(settings: Settings) -> Up | None:
    """Finds the project's `up`; None: none runs, or it is not ready yet."""
    if find_holder(settings.place("up.lock")) is None:
        return None
    try:
        return msgspec.json.decode(settings.place("up.json").read_bytes(), type=Up)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def hold_up_lock(settings: Settings) -> IO[str]:
    """Takes the lock of the project's `up`. It is released when the file is closed, or this process ends.

    Raises:
        Unavailable: another `up` runs.
    """
    path = settings.make_state() / "up.lock"
    file = try_lock(path)
    if file is None:
        other = find_holder(path) or "unknown"
        raise Unavailable(
            f"`headrace up` is already running here, as process {other}",
            where=str(settings.root),
            remedy=f"Use it, or end it first: kill {other}",
        )
    return file


def write_up(settings: Settings, up: Up) -> None:
    """Writes the record of this `up`."""
    write_file(settings.place("up.json"), msgspec.json.encode(up))


def remove_up(settings: Settings) -> None:
    """Removes the record."""
    settings.place("up.json").unlink(missing_ok=True)
