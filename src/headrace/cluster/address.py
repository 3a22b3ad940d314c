"""The address of the project's Ray, by which other verbs join it: `ray.json` in the state folder."""

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
    """What the file holds.

    Attributes:
        address: where Ray listens.
        starter: the mark of the process that started it, and with which it ends.
    """

    address: str
    starter: str


def keep_address(settings: Settings, address: str) -> None:
    """Writes where the Ray listens that this process has started."""
    write_file(settings.place(_FILE), msgspec.json.encode(_Address(address, mark_of())))


def find_address(settings: Settings) -> str | None:
    """The address of another verb's Ray, if that verb lives and its Ray accepts connections."""
    try:
        kept = _read(settings)
        if not is_alive(kept.starter):
            return None
        host, _, port = kept.address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=1).close()
    except (OSError, msgspec.DecodeError, ValueError):
        return None
    return kept.address


def forget_address(settings: Settings) -> None:
    """Removes the file, if this process wrote it."""
    with suppress(OSError, msgspec.DecodeError):
        if _read(settings).starter == mark_of():
            settings.place(_FILE).unlink()


def _read(settings: Settings) -> _Address:
    return msgspec.json.decode(settings.place(_FILE).read_bytes(), type=_Address)
