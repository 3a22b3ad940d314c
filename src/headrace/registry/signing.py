"""The key that signs bundles: from the environment, or made once for this project and machine."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from headrace.config.settings import Settings

__all__ = ["VARIABLE", "signing_key"]

VARIABLE = "HEADRACE_SIGNING_KEY"


def signing_key(settings: Settings) -> bytes:
    """The key: `HEADRACE_SIGNING_KEY`, else `signing.key` in the state folder, made (0600) if need be."""
    given = os.environ.get(VARIABLE)
    if given:
        return given.encode()
    path = settings.place("signing.key")
    if not path.exists():
        settings.made_state()
        _make(path)
    return path.read_bytes()


def _make(path: Path) -> None:
    # Written whole beside its place, then linked there: link fails where another process was first,
    # so that all use one key, and a kill leaves no half of one.
    made = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_hex(32).encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(made, path)
        except FileExistsError:
            return
    finally:
        made.unlink()
