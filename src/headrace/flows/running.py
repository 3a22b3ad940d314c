"""What runs: the addresses and processes of the project's `up`, as it wrote them down."""

from __future__ import annotations

import fcntl
from datetime import datetime
from typing import IO

import msgspec
from msgspec import Struct

from headrace.config.settings import Settings
from headrace.kernel.errors import Unavailable

__all__ = ["Up", "forget", "keep", "locked", "running"]


class Up(Struct, frozen=True):
    """A running `up`.

    Attributes:
        pid: its process.
        started: since when.
        predict, collector, console: the addresses of its doors.
        processes: name → process id of what it runs beside Ray.
    """

    pid: int
    started: datetime
    predict: str
    collector: str
    console: str
    processes: dict[str, int]


def running(settings: Settings) -> Up | None:
    """The project's `up`, where one runs and has come up."""
    if _holder(settings) is None:
        return None
    try:
        return msgspec.json.decode(settings.place("up.json").read_bytes(), type=Up)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def locked(settings: Settings, pid: int) -> IO[str]:
    """The lock that says that this process is the project's `up`; it goes with the file or the process.

    Raises:
        Unavailable: another `up` has it.
    """
    path = settings.made_state() / "up.lock"
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        other = path.read_text().strip() or "unknown"
        raise Unavailable(
            f"`headrace up` runs here already, as process {other}",
            where=str(settings.root),
            remedy=f"Use it, or end it first: kill {other}",
        ) from None
    file.truncate(0)
    file.write(str(pid))
    file.flush()
    return file


def keep(settings: Settings, up: Up) -> None:
    """Writes down what runs, as one step."""
    fresh = settings.place("up.new")
    fresh.write_bytes(msgspec.json.encode(up))
    fresh.replace(settings.place("up.json"))


def forget(settings: Settings) -> None:
    """Takes it away."""
    settings.place("up.json").unlink(missing_ok=True)


def _holder(settings: Settings) -> str | None:
    """The process that holds the lock, if one does."""
    path = settings.place("up.lock")
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return path.read_text()
    return None
