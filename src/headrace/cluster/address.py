"""The address of the project's Ray, `ray.json` in the state folder: other commands connect to it."""

from __future__ import annotations

import socket
from contextlib import suppress

import msgspec
from msgspec import Struct

from headrace.config.settings import Settings
from headrace.kernel.files import write_file
from headrace.kernel.process import is_alive, mark_of

__all__ = ["find_address", "forget_address", "keep_address"]

_FILE = "ray.json"


class _Address(Struct):
    """The content of `ray.json`.

    Attributes:
        address: where Ray listens.
        starter: the mark of the process that started Ray. Ray ends when that process does.
    """

    address: str
    starter: str


def keep_address(settings: Settings, address: str) -> None:
    """Records the address of the Ray that this process started."""
    write_file(settings.place(_FILE), msgspec.json.encode(_Address(address, mark_of())))


def find_address(settings: Settings) -> str | None:
    """The address of another command's Ray, if that command is alive and its Ray accepts connections."""
    try:
        recorded = _read(settings)
        if not is_alive(recorded.starter):
            return None
        host, _, port = recorded.address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=1).close()
    except (OSError, msgspec.DecodeError, ValueError):
        return None
    return recorded.address


def forget_address(settings: Settings) -> None:
    """Removes the file, if this process wrote it."""
    with suppress(OSError, msgspec.DecodeError):
        if _read(settings).starter == mark_of():
            settings.place(_FILE).unlink()


def _read(settings: Settings) -> _Address:
    return msgspec.json.decode(settings.place(_FILE).read_bytes(), type=_Address)
