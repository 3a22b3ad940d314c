"""The file with the releases in force, from which an endpoint starts while the log cannot be reached."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from headrace.config.settings import Settings
from headrace.kernel.files import write_file
from headrace.kernel.private import make_private
from headrace.serving.release import Release

__all__ = ["find_kept_releases", "read_kept_releases", "write_kept_releases"]

_log = logging.getLogger("headrace.serving")


def find_kept_releases(settings: Settings) -> Path:
    """Where it is: it exists once a replica has put a release in force."""
    return settings.place("serving", "releases.json")


def read_kept_releases(path: Path) -> dict[str, Release]:
    """The releases that were in force when a replica last ran here."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Release])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


def write_kept_releases(path: Path, releases: Mapping[str, Release], *, is_retry: bool) -> bool:
    """Writes the releases in force. Returns whether the disk took them; if not, the first failure is logged."""
    try:
        make_private(path.parent)
        write_file(path, msgspec.json.encode(releases))
    except OSError as error:
        if not is_retry:
            _log.error("the releases in force cannot be written for the next start: %s", error)
        return False
    return True
